"""Averaged weights (EMA), through mmengine's hook.

Validation during training measures the average. A checkpoint holds it as `state_dict`, so that
every command uses it, and the raw weights, with which training resumes, as `ema_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError


def is_used(cfg: Config) -> bool:
    """Whether the config averages weights."""
    return any(hook.get('type') == 'EMAHook' for hook in cfg.get('custom_hooks') or [])


def use_ema(cfg: Config) -> None:
    """Average over the last 5,000 iterations, early in training over the last tenth of them.

    BN statistics are averaged too, as is usual for detectors.

    Raises:
        UserError: the config averages already.
    """
    if is_used(cfg):
        raise UserError('--ema: the config has an EMAHook of its own: drop the flag')
    cfg.custom_hooks = [
        *(cfg.get('custom_hooks') or []),
        dict(
            type='EMAHook',
            ema_type='MomentumAnnealingEMA',
            momentum=0.0002,
            gamma=10,
            update_buffers=True,
            strict_load=True,
        ),
    ]


def raw_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights behind the average in a checkpoint, by the names of the model."""
    return {
        name.removeprefix('module.'): value
        for name, value in content['ema_state_dict'].items()
        if name.startswith('module.')
    }


def check_averaging(cfg: Config, content: Mapping[str, Any], path: str) -> None:
    """Check that a run with averaged weights resumes from averaged weights, and only such a run.

    Raises:
        UserError: the run averages and the checkpoint does not, or vice versa.
    """
    if is_used(cfg) and 'ema_state_dict' not in content:
        raise UserError(f'--resume: {path} holds no averaged weights to continue with: drop --ema')
    if not is_used(cfg) and 'ema_state_dict' in content:
        raise UserError(f'--resume: {path} was trained with averaged weights: add --ema')
