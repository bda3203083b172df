"""Hooks around training and evaluation, one file each, named after its hook.

Importing this package registers them with mmengine; `effvim.engine.runner` does so, hence a config
that `Runner` runs can name them.
"""

from effvim.engine.hooks.checkpoint_hook import EffViMCheckpointHook
from effvim.engine.hooks.curves_hook import EffViMCurvesHook
from effvim.engine.hooks.early_stopping_hook import EffViMEarlyStoppingHook
from effvim.engine.hooks.guard_hook import EffViMGuardHook
from effvim.engine.hooks.images_hook import EffViMImagesHook
from effvim.engine.hooks.progress_hook import EffViMProgressHook
from effvim.engine.hooks.published_hook import EffViMPublishedHook
from effvim.engine.hooks.report_hook import EffViMReportHook
from effvim.engine.hooks.resume_hook import EffViMResumeHook
from effvim.engine.hooks.train_images_hook import EffViMTrainImagesHook

__all__ = [
    'EffViMCheckpointHook',
    'EffViMCurvesHook',
    'EffViMEarlyStoppingHook',
    'EffViMGuardHook',
    'EffViMImagesHook',
    'EffViMProgressHook',
    'EffViMPublishedHook',
    'EffViMReportHook',
    'EffViMResumeHook',
    'EffViMTrainImagesHook',
]
