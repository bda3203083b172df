"""EfficientViM in plain PyTorch; `backbone.wrapper` registers it with mmengine."""

from .efficientvim import (
    ARCHS,
    HSMSSD,
    EfficientViM,
    EfficientViMClassifier,
    FeatureInfo,
    feature_info,
)
from .errors import UserError

__all__ = [
    'ARCHS',
    'HSMSSD',
    'EfficientViM',
    'EfficientViMClassifier',
    'FeatureInfo',
    'UserError',
    'feature_info',
]
