"""`EffViMReportHook`: the HTML report of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim.config.structure import is_segmentor
from effvim.engine import summary
from effvim.evaluation.error_analysis import Comparison, compare_objects, compare_pixels
from effvim.evaluation.report import Evaluation, report_page
from effvim.files import write_atomic


@HOOKS.register_module()
class EffViMReportHook(Hook):
    """Writes `report.html` after a test.

    Args:
        folder: output directory.
        checkpoint: the file that is evaluated, for the heading.
        samples: number of images that are shown with prediction and ground truth.
        limit: number of mistakes that are shown.
        score_thr: objects that score lower, 0 to 1, are neither drawn nor compared.
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
        self.comparisons: list[Comparison] = []

    def before_test_epoch(self, runner: Any) -> None:
        """Forget an earlier test."""
        self.comparisons = []

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Compare this batch with its ground truth."""
        number = len(runner.spec.classes)
        for sample in outputs:
            self.comparisons.append(
                compare_pixels(sample, number)
                if 'pred_sem_seg' in sample
                else compare_objects(sample, number, self.score_thr)
            )

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the report, on the first rank."""
        dataset = runner.test_dataloader.dataset
        comparisons = dist.collect_results(
            self.comparisons, len(dataset), tmpdir=str(Path(runner.work_dir, 'collected'))
        )
        if comparisons is None:
            return
        coco = next((m for m in runner.test_evaluator.metrics if hasattr(m, 'precision')), None)
        evaluation = Evaluation(
            spec=runner.spec,
            checkpoint=self.checkpoint,
            model=getattr(runner.model, 'module', runner.model),
            dataset=dataset,
            segments=is_segmentor(runner.cfg),
            metrics=summary.numbers(metrics or {}),
            comparisons=comparisons,
            precision=coco.precision if coco else {},
            iou_thresholds=coco.iou_thrs if coco else (),
            samples=self.samples,
            mistakes=self.limit,
            score_thr=self.score_thr,
        )
        write_atomic(self.path, report_page(evaluation).encode())
