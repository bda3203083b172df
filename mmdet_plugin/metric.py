"""COCO's evaluation, all twelve numbers, unrounded."""

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

# mmdet's names of the twelve numbers, in the order in which COCO's evaluation gives them.
# With mmdet's limits of 100, 300 and 1000 detections an image, where COCO's own are 1, 10, 100.
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
    """mmdet's `CocoMetric`, counted by faster-coco-eval, with three differences.

    It gives all twelve numbers instead of six, in full precision instead of three digits, and for
    a data set without a single detection it gives 0 where objects exist instead of raising. As in
    COCO, −1 stands for "no such object in the truth", e.g. no small one.

    Attributes:
        precision: by metric what was counted last: the precision at each IoU threshold, 101 points
            of recall, class, object size (all, small, medium, large) and limit of detections; −1
            where the truth has no such object.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.precision: dict[str, np.ndarray] = {}

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """The twelve numbers per metric, by mmdet's names, e.g. `bbox_mAP_50`."""
        _, predictions = zip(*results)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / 'results')
            truth = self.truth()
            # results2json reads cat_ids
            self.cat_ids = truth.getCatIds(catNms=self.dataset_meta['classes'])
            files = self.results2json(predictions, prefix)
            if self.format_only:
                return {}
            detections = {
                metric: json.loads(Path(files[metric]).read_bytes()) for metric in self.metrics
            }

        numbers = {}
        for metric, found in detections.items():
            for detection in found if metric == 'segm' else []:
                detection.pop('bbox')  # else COCO takes the box's area for the mask's
            stats = self.count(truth, found, metric)
            for name, value in zip(NAMES, stats):
                numbers[f'{metric}_{name}'] = value
        return numbers

    def truth(self) -> COCO:
        """The annotations; `CocoMetric` has read them into pycocotools' class already."""
        truth = COCO()
        truth.dataset = self._coco_api.dataset
        truth.createIndex()
        return truth

    def count(self, truth: COCO, detections: list[dict[str, Any]], metric: str) -> list[float]:
        """COCO's twelve numbers for `detections` in COCO's result format."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval_faster(truth, truth.loadRes(detections), metric)
            evaluation.params.catIds = self.cat_ids
            evaluation.params.imgIds = truth.getImgIds()
            evaluation.params.maxDets = list(self.proposal_nums)
            evaluation.params.iouThrs = self.iou_thrs
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.precision[metric] = np.asarray(evaluation.eval['precision'])
        return [float(value) for value in evaluation.stats[:12]]
