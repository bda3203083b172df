"""Import it and segmentation works: backbone and metric; mmseg's own FPN and heads suffice.

Configs name it in `custom_imports`.
"""

from backbone import ops

ops.install()  # mmsegmentation 1.2 imports mmcv.ops, later ones do not

from backbone import layer_decay, wrapper  # noqa: E402

from . import metric  # noqa: E402

__all__ = ['layer_decay', 'metric', 'ops', 'wrapper']
