"""Import it and detection works: operators without a compiler, backbone, neck, metric.

Configs name it in `custom_imports`; programs import it before anything of mmdet's models.
"""

from backbone.openmmlab import ops

# The imports below load mmdet's models, which load mmcv.ops, which asks for compiled operators:
# the stand-in for them must be there first.
ops.install()

from backbone.openmmlab import layer_decay, wrapper

from . import bounded_nms, metric, neck, roi_extractor

bounded_nms.install()

__all__ = ['bounded_nms', 'layer_decay', 'metric', 'neck', 'ops', 'roi_extractor', 'wrapper']
