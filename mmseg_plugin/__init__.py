"""Import it and segmentation works: backbone and metric; mmseg's own FPN and heads suffice.

Configs name it in `custom_imports`.
"""

from backbone.openmmlab import ops

ops.install()  # mmsegmentation 1.2 imports mmcv.ops, later ones do not

from backbone.openmmlab import layer_decay, wrapper

from . import metric

__all__ = ['layer_decay', 'metric', 'ops', 'wrapper']
