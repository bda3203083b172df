"""`EffViMCocoMetric`: COCO's evaluation with all twelve numbers, unrounded."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from backbone.errors import UserError

# mmdet's names of the twelve numbers, in the order of `COCOeval.stats`. mmdet limits the detections
# per image to 100, 300 and 1000, COCO itself to 1, 10 and 100.
NAMES = (
    'mAP',
    'mAP_50',
    'mAP_75',
    'mAP_s',
    'mAP_m',
    'mAP_l',
    'AR@100',
    'AR@300',
    'AR@1000',
    'AR_s@1000',
    'AR_m@1000',
    'AR_l@1000',
)


@METRICS.register_module()
class EffViMCocoMetric(CocoMetric):
    """Evaluate detections as mmdet's `CocoMetric` does, with three differences.

    It returns all twelve numbers instead of six, in full precision instead of three digits, and a
    dataset without a single detection scores 0 where objects exist instead of raising. As in COCO,
    −1 stands for "no such object in the ground truth", e.g. no small one. faster-coco-eval counts.
    With `classwise=True` it also returns the mAP of each class, for boxes and masks. It needs
    `ann_file`, and takes the metrics bbox and segm.

    Attributes:
        precision: of the last evaluation, by metric ('bbox', 'segm'): the precision by IoU
            threshold, recall (101 points), class, object size (all, small, medium, large) and limit
            of detections; −1 where the ground truth has no such object.

    Raises:
        UserError: an argument is not one of these.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        others = [metric for metric in self.metrics if metric not in ('bbox', 'segm')]
        if others:
            raise UserError(f"metric={others[0]!r}: it takes 'bbox' and 'segm'; use CocoMetric")
        if self._coco_api is None:
            raise UserError('ann_file is needed: EffViMCocoMetric reads the ground truth from it')
        if self.metric_items:
            raise UserError('metric_items: EffViMCocoMetric gives all twelve numbers: drop it')
        self.precision: dict[str, np.ndarray] = {}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return the twelve numbers per metric, named as in mmdet, e.g. `bbox_mAP_50`."""
        _, predictions = zip(*results)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            ground_truth = self.ground_truth()
            # results2json reads cat_ids
            self.cat_ids = ground_truth.getCatIds(catNms=self.dataset_meta['classes'])
            files = self.results2json(predictions, prefix)
            if self.format_only:
                return {}
            detections = {
                metric: json.loads(Path(files[metric]).read_bytes()) for metric in self.metrics
            }

        numbers = {}
        for metric, boxes_or_masks in detections.items():
            for detection in boxes_or_masks if metric == 'segm' else []:
                detection.pop('bbox')  # otherwise COCO takes the box's area for the mask's
            stats = self.count(ground_truth, boxes_or_masks, metric)
            for name, value in zip(NAMES, stats):
                numbers[f'{metric}_{name}'] = value
            if self.classwise:
                numbers.update(self.class_precisions(metric))
        return numbers

    def class_precisions(self, metric: str) -> dict[str, float]:
        """The mAP of each class, from the last `count`, e.g. `bbox_person_precision`."""
        precision = self.precision[metric][:, :, :, 0, -1]  # all sizes, most detections
        return {
            f'{metric}_{name}_precision': float(values[values > -1].mean())
            if (values > -1).any()
            else -1.0
            for name, values in zip(self.dataset_meta['classes'], np.moveaxis(precision, 2, 0))
        }

    def ground_truth(self) -> COCO:
        """The annotations in faster-coco-eval's class; `CocoMetric` has read them already."""
        ground_truth = COCO()
        ground_truth.dataset = self._coco_api.dataset
        ground_truth.createIndex()
        return ground_truth

    def count(
        self, ground_truth: COCO, detections: list[dict[str, Any]], metric: str
    ) -> list[float]:
        """Return COCO's twelve numbers for `detections` in COCO's result format."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval_faster(ground_truth, ground_truth.loadRes(detections), metric)
            evaluation.params.catIds = self.cat_ids
            evaluation.params.imgIds = ground_truth.getImgIds()
            evaluation.params.maxDets = list(self.proposal_nums)
            evaluation.params.iouThrs = self.iou_thrs
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # COCO sorts the classes by id
        order = np.searchsorted(np.sort(self.cat_ids), self.cat_ids)
        self.precision[metric] = np.asarray(evaluation.eval['precision'])[:, :, order]
        return [float(value) for value in evaluation.stats[:12]]
