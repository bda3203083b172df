"""Import it and mmsegmentation knows `type='EfficientViM'`; its own FPN and heads suffice."""

from backbone import wrapper

__all__ = ['wrapper']
