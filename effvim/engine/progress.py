"""How far training is, in words."""

from __future__ import annotations

from typing import Any

from mmengine.runner import IterBasedTrainLoop


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:03:20."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{rest:02d}'


def by_epoch(runner: Any) -> bool:
    """Whether training is counted in epochs; otherwise in iterations of an endless stream."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def position_of(runner: Any) -> str:
    """How far training is, as it is counted: epoch 3, or iteration 4000."""
    return f'epoch {runner.epoch}' if by_epoch(runner) else f'iteration {runner.iter}'
