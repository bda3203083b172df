"""Import it and segmentation works: backbone and metric; mmseg's own FPN and heads suffice.

Configs name it in `custom_imports`; programs import it before anything of mmseg's models.
"""

from backbone.openmmlab import ops

# The imports below load mmsegmentation. Version 1.2 loads mmcv.ops, which asks for compiled
# operators: the stand-in for them must be there first.
ops.install()

from backbone.openmmlab import layer_decay, wrapper

from . import metric

__all__ = ['layer_decay', 'metric', 'ops', 'wrapper']
