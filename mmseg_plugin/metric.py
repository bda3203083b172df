"""mIoU, mAcc and aAcc from exact counts, unrounded, and the numbers of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor


@METRICS.register_module()
class EffViMIoUMetric(IoUMetric):
    """mmseg's `IoUMetric` with four differences, in percent as there.

    Pixels are counted in integers instead of float32, which is exact up to 2²⁴ only; the means keep
    their digits; every class has its numbers by name, e.g. `IoU.wall`, instead of a printed table;
    and `leave_out` names classes that do not count in the means, as a background.

    As in mmseg a class that occurs neither in the truth nor in the predictions counts in no mean;
    here it has no number of its own either. A class that is only predicted has IoU 0 and no Acc.
    """

    def __init__(self, *args: Any, leave_out: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leave_out = tuple(leave_out)

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels per class, int64: in both, in either, predicted, true; none where ignored."""
        kept = label != ignore_index
        found, truth = pred_label[kept].long(), label[kept].long()

        def count(labels: Tensor) -> Tensor:
            return torch.bincount(labels, minlength=num_classes)[:num_classes].cpu()

        both, predicted, true = count(truth[found == truth]), count(found), count(truth)
        return both, predicted + true - both, predicted, true

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """The means by mmseg's names, then every class, e.g. `IoU.wall` and `Acc.wall`."""
        if self.format_only:
            return {}
        counts = [sum(part).double() for part in zip(*results)]
        values = self.total_area_to_metrics(*counts, self.metrics, self.nan_to_num, self.beta)
        overall = values.pop('aAcc')
        classes = self.dataset_meta['classes']
        counted = [name not in self.leave_out for name in classes]
        numbers = {f'm{name}': 100 * np.nanmean(value[counted]) for name, value in values.items()}
        numbers['aAcc'] = 100 * overall
        for name, value in values.items():
            for label, number in zip(classes, value):
                if not np.isnan(number):
                    numbers[f'{name}.{label}'] = 100 * number
        return {name: float(number) for name, number in numbers.items()}
