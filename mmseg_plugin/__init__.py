"""Import it and segmentation works: backbone and metric; mmseg's own FPN and heads suffice.

Configs name it in `custom_imports`.
"""

from backbone import wrapper

from . import metric

__all__ = ['metric', 'wrapper']
