"""EfficientViM for detection and segmentation with mmdet and mmsegmentation.

The public names are imported when they are first used: `import effvim` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effvim import telemetry

if TYPE_CHECKING:
    from backbone import HSMSSD, EfficientViM, EfficientViMClassifier
    from backbone.errors import UserError
    from effvim.engine.testing import evaluate
    from effvim.engine.training import train
    from effvim.export.exporting import export_model
    from effvim.inference.folding import fuse
    from effvim.inference.prediction import Prediction
    from effvim.inference.predictor import Predictor

__version__ = '0.2.0'

__all__ = [
    'HSMSSD',
    'EfficientViM',
    'EfficientViMClassifier',
    'Prediction',
    'Predictor',
    'UserError',
    '__version__',
    'evaluate',
    'export_model',
    'fuse',
    'train',
]

_MODULES = {
    'EfficientViM': 'backbone',
    'EfficientViMClassifier': 'backbone',
    'HSMSSD': 'backbone',
    'Prediction': 'effvim.inference.prediction',
    'Predictor': 'effvim.inference.predictor',
    'UserError': 'backbone.errors',
    'evaluate': 'effvim.engine.testing',
    'export_model': 'effvim.export.exporting',
    'fuse': 'effvim.inference.folding',
    'train': 'effvim.engine.training',
}


telemetry.switch_off()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from effvim.installation import check_installation

    problem = check_installation()
    if problem:
        raise ImportError(problem)
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
