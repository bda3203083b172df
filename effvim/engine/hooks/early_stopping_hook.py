"""`EffViMEarlyStoppingHook`: end a training that no longer improves."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS

from backbone.errors import UserError
from effvim import console
from effvim.engine.progress import by_epoch

STATE = 'early_stopping'  # in checkpoints


@HOOKS.register_module()
class EffViMEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's early stopping, which a resumed run continues and which says that it stopped.

    Args:
        patience: how many validations in a row may bring no improvement.
        monitor: the metric; empty for the first one, box mAP or mIoU, by which the best checkpoint
            is chosen, too.
        min_delta: a gain of less is none.
    """

    priority = 'LOW'  # before the checkpoint hook, which stores the state with the best score

    monitor: str

    def __init__(self, patience: int, monitor: str = '', min_delta: float = 1e-4) -> None:
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
        """Stop the training if it is time to.

        Raises:
            UserError: the validation did not compute the metric.
        """
        self.monitor = self.monitor or next(iter(metrics or {}), '')
        if self.monitor not in (metrics or {}):
            raise UserError(
                f'early stopping: the validation has no metric {self.monitor!r}, only '
                f'{", ".join(metrics or {}) or "none"}: set monitor of EffViMEarlyStoppingHook'
            )
        super().after_val_epoch(runner, metrics)
        loop = runner.train_loop
        done = runner.epoch if by_epoch(runner) else runner.iter
        total = loop.max_epochs if by_epoch(runner) else loop.max_iters
        if loop.stop_training and done < total and runner.rank == 0:
            console.say(
                f'stopped early: {self.monitor} has not improved in the last {self.wait_count} '
                f'validation{"s" * (self.wait_count != 1)}; the best was {self.best_score:.4f}'
            )
