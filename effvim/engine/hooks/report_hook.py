"""TODO effvim.engine.hooks.report_hook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim.engine import summary
from effvim.evaluation import (
    error_analysis,
)
from effvim.evaluation.report import Page
from effvim.files import write_atomic


@HOOKS.register_module()
class EffViMReportHook(Hook):
    """Writes `report.html` after a test.

    Args:
        folder: where to.
        checkpoint: the file that is tested, for the heading.
        samples: pictures that are shown beside the truth.
        limit: mistakes that are shown.
        score_thr: objects of lower score, 0 to 1, are neither drawn nor compared with the truth.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        folder: str,
        checkpoint: str,
        samples: int = 8,
        limit: int = 12,
        score_thr: float = 0.3,
    ) -> None:
        self.path, self.checkpoint = Path(folder) / 'report.html', checkpoint
        self.samples, self.limit, self.score_thr = samples, limit, score_thr
        self.records: list[error_analysis.Record] = []

    def before_test_epoch(self, runner: Any) -> None:
        """Begin anew."""
        self.records = []

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Compare this batch with its truth."""
        number = len(runner.about['classes'])
        for sample in outputs:
            self.records.append(
                error_analysis.of_pixels(sample, number)
                if 'pred_sem_seg' in sample
                else error_analysis.of_objects(sample, number, self.score_thr)
            )

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the page, in the first process."""
        dataset = runner.test_dataloader.dataset
        records = dist.collect_results(
            self.records, len(dataset), tmpdir=str(Path(runner.work_dir, 'collected'))
        )
        if records is not None:
            page = Page(runner, self, records, summary.numbers(metrics or {}))
            write_atomic(self.path, page.text().encode())
