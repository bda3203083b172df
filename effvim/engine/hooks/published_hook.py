"""`EffViMPublishedHook`: validations compared with the authors' run."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim import console
from effvim.config.published import published_curve
from effvim.engine.progress import by_epoch


@HOOKS.register_module()
class EffViMPublishedHook(Hook):
    """Says after each validation how far the metrics are from those of the published run.

    Only for runs of the same recipe, see `published_curve`.
    """

    priority = 'LOWEST'

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Print the comparison."""
        if runner.rank or not metrics:
            return
        curve = published_curve(runner.cfg, runner.spec.config, runner.world_size)
        step = runner.epoch if by_epoch(runner) else runner.iter
        if curve and (line := curve.compare(metrics, step)):
            console.say(line)
