"""`EffViMEarlyStoppingHook`: end a training that no longer improves."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS

from effvim import console

STATE = 'early_stopping'  # in checkpoints


@HOOKS.register_module()
class EffViMEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's early stopping, which a resumed run continues and which says that it stopped.

    Args:
        monitor: the metric, e.g. 'coco/bbox_mAP'.
        patience: how many validations in a row may bring no improvement.
        min_delta: a gain of less is none.
    """

    def __init__(self, monitor: str, patience: int, min_delta: float = 1e-4) -> None:
        super().__init__(monitor, rule='greater', min_delta=min_delta, patience=patience)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember the best score, and how many validations ago it was."""
        checkpoint[STATE] = dict(best_score=float(self.best_score), wait_count=self.wait_count)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Continue to count, in a resumed run."""
        if runner._resume and STATE in checkpoint:
            self.best_score = checkpoint[STATE]['best_score']
            self.wait_count = checkpoint[STATE]['wait_count']

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Stop the training if it is time to."""
        super().after_val_epoch(runner, metrics)
        if runner.train_loop.stop_training and runner.rank == 0:
            console.say(
                f'stopped early: {self.monitor} has not improved for {self.wait_count} validations '
                f'(--patience); the best was {self.best_score:.4f}'
            )
