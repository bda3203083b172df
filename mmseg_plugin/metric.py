"""`EffViMIoUMetric`: mIoU, mAcc and aAcc from exact counts, unrounded, and per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor

from backbone.errors import UserError


@METRICS.register_module()
class EffViMIoUMetric(IoUMetric):
    """Evaluate segmentation as mmseg's `IoUMetric` does, in percent, with four differences.

    Pixels are counted in integers instead of float32, which is exact only up to 2²⁴; the means are
    not rounded; every class has its numbers by name, e.g. `IoU.wall`, instead of a printed table;
    and `ignored_classes` are excluded from the means.

    As in mmseg, a class that occurs neither in the ground truth nor in the predictions counts in no
    mean; here it has no number of its own either. A class that is only predicted has IoU 0 and no
    Acc.

    Args:
        *args: as `IoUMetric`.
        ignored_classes: names of classes to exclude from mIoU and mAcc, e.g. a background.
        **kwargs: as `IoUMetric`.
    """

    def __init__(self, *args: Any, ignored_classes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = [ignored_classes] if isinstance(ignored_classes, str) else ignored_classes
        self.ignored_classes = tuple(given)

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count pixels per class, int64: in both label maps, in either, predicted, ground truth.

        Pixels whose ground truth is `ignore_index` do not count.

        Args:
            pred_label: H W, the predicted classes.
            label: H W, the ground truth.
        """
        kept = label != ignore_index
        predicted_labels, true_labels = pred_label[kept].long(), label[kept].long()

        def count(labels: Tensor) -> Tensor:
            return torch.bincount(labels, minlength=num_classes)[:num_classes].cpu()

        both = count(true_labels[predicted_labels == true_labels])
        predicted, true = count(predicted_labels), count(true_labels)
        return both, predicted + true - both, predicted, true

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Return the means, named as in mmseg, then every class, e.g. `IoU.wall` and `Acc.wall`.

        Raises:
            UserError: one of the ignored classes is not among the dataset's.
        """
        if self.format_only:
            return {}
        counts = [sum(per_image).double() for per_image in zip(*results)]
        values = self.total_area_to_metrics(*counts, self.metrics, self.nan_to_num, self.beta)
        overall = values.pop('aAcc')
        classes = self.dataset_meta['classes']
        for name in self.ignored_classes:
            if name not in classes:
                raise UserError(
                    f'ignored_classes: there is no class {name!r}, only {", ".join(classes)}'
                )
        counted = [name not in self.ignored_classes for name in classes]
        numbers = {f'm{name}': 100 * np.nanmean(value[counted]) for name, value in values.items()}
        numbers['aAcc'] = 100 * overall
        for name, value in values.items():
            for label, number in zip(classes, value):
                if not np.isnan(number):
                    numbers[f'{name}.{label}'] = 100 * number
        return {name: float(number) for name, number in numbers.items()}
