"""`EffViMImagesHook`: images of predictions and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim.visualization.comparison import save_comparison


@HOOKS.register_module()
class EffViMImagesHook(Hook):
    """Saves images of ground truth and prediction, the first `limit` of each evaluation.

    Args:
        folder: output directory; a later evaluation replaces the images of an earlier one.
        limit: number of images; None for all.
        score_thr: predictions that score lower, 0 to 1, are not drawn.
    """

    def __init__(self, folder: str, limit: int | None = 8, score_thr: float = 0.3) -> None:
        self.folder, self.limit, self.score_thr = Path(folder), limit, score_thr
        self.count = 0

    def before_val_epoch(self, runner: Any) -> None:
        """Count from the start."""
        self.count = 0

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw the samples of this batch."""
        self._draw(runner, outputs, len(runner.val_dataloader.dataset))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw the samples of this batch."""
        self._draw(runner, outputs, len(runner.test_dataloader.dataset))

    def _draw(self, runner: Any, samples: Sequence[Any], size: int) -> None:
        for sample in samples:
            # ranks take turns; at the end some repeat the first images
            number = self.count * runner.world_size + runner.rank + 1
            if number > (size if self.limit is None else min(self.limit, size)):
                return
            self.count += 1
            name = f'{number:03d}_{Path(sample.img_path).stem}.png'
            save_comparison(sample, runner.spec.classes, self.folder / name, self.score_thr)
