"""Import it and segmentation works: backbone and metric; mmseg's own FPN and heads suffice.

Configs name it in `custom_imports`.
"""

from backbone import layer_decay, wrapper

from . import metric

__all__ = ['layer_decay', 'metric', 'wrapper']
