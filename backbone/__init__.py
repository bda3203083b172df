"""EfficientViM in plain PyTorch; `backbone.wrapper` registers it with mmengine."""

from .efficientvim import ARCHS, HSMSSD, EfficientViM, FeatureInfo, feature_info
from .errors import UserError

__all__ = ['ARCHS', 'HSMSSD', 'EfficientViM', 'FeatureInfo', 'UserError', 'feature_info']
