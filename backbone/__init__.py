"""EfficientViM in plain PyTorch; `backbone.openmmlab` registers it with mmengine.

The names below are imported when they are first used: `import backbone` and
`from backbone.errors import UserError` load neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .classifier import EfficientViMClassifier
    from .efficientvim import ARCHS, HSMSSD, EfficientViM, FeatureInfo, feature_info
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

if not TYPE_CHECKING:  # type checkers would take any name for one that exists

    def __getattr__(name: str) -> object:
        """The object of a name in `__all__`, from its module (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        elsewhere = {'UserError': 'errors', 'EfficientViMClassifier': 'classifier'}
        module = elsewhere.get(name, 'efficientvim')
        value = getattr(import_module(f'{__name__}.{module}'), name)
        globals()[name] = value  # from now on found without this function
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
