"""Import it and detection works: operators without a compiler, backbone, neck, metric.

Configs name it in `custom_imports`; programs import it before anything of mmdet's models.
"""

from backbone import ops

ops.install()  # before anything below imports mmcv.ops

from backbone import layer_decay, wrapper  # noqa: E402

from . import metric, neck, roi_extractor  # noqa: E402

__all__ = ['layer_decay', 'metric', 'neck', 'ops', 'roi_extractor', 'wrapper']
