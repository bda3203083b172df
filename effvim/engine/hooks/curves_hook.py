"""`EffViMCurvesHook`: training curves as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim.engine.progress import by_epoch
from effvim.visualization.curves import draw_curves


@HOOKS.register_module()
class EffViMCurvesHook(Hook):
    """Draws `curves.png` in the working directory after each validation and after training."""

    priority = 'LOWEST'

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Draw the run so far; not where nothing is trained."""
        if runner.rank == 0 and runner.iter:
            self.draw(runner)

    def after_train(self, runner: Any) -> None:
        """Draw the whole run."""
        if runner.rank == 0:
            self.draw(runner)

    @staticmethod
    def draw(runner: Any) -> None:
        """Draw `curves.png`."""
        unit = 'epoch' if by_epoch(runner) else 'iteration'
        draw_curves(Path(runner.work_dir), runner.spec.began, unit)
