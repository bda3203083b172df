"""The last step of a dense detector in NumPy, for runtimes without NMS.

What a program without this toolkit has to do with the outputs of such a file; the same lines are in
examples/fixed_size.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def select(
    boxes: np.ndarray, scores: np.ndarray, qualities: np.ndarray, rules: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes that are detections, highest-scoring first, their scores and their labels.

    Shape: boxes N 4, x1 y1 x2 y2, scores N C, qualities N 1 or 1 1 → K 4, K, K.

    Args:
        boxes: of all priors, of one level after the other.
        scores: of all classes.
        qualities: of the boxes, by which scores are multiplied after the choice; 1 where a detector
            has none.
        rules: `selection` of the file's metadata, see `export.fixed_size.rules_of`.
    """
    if rules['one_class']:
        scores = np.where(scores == scores.max(1, keepdims=True), scores, 0)
    chosen, first = [], 0
    for number in rules['priors']:
        level = scores[first : first + number].ravel()
        best = np.argsort(-level, kind='stable')[: rules['nms_pre']]
        chosen.append(best[level[best] > rules['score_thr']] + first * scores.shape[1])
        first += number
    index, labels = np.divmod(np.concatenate(chosen), scores.shape[1])
    boxes, scores = boxes[index], (scores * qualities)[index, labels]
    large = (boxes[:, 2:] - boxes[:, :2] > rules['min_bbox_size']).all(1)
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    kept = suppress(boxes, scores, labels, rules['iou_threshold'], rules['max_per_img'])
    return boxes[kept], scores[kept], labels[kept]


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    iou_threshold: float,
    number: int | None,
) -> list[int]:
    """Indices of the boxes that NMS keeps within each class, highest-scoring first.

    Shape: boxes N 4, scores and labels N.

    Args:
        boxes: corners.
        scores: of the boxes.
        labels: of the boxes.
        iou_threshold: a box that overlaps a better one of its class by more is dropped.
        number: of boxes at most; None for no limit.
    """
    if not len(boxes):
        return []
    # Moved apart by class, as mmdet does: rounding decides about boxes at the threshold.
    moved = boxes + (labels * (boxes.max() + 1)).astype(boxes.dtype)[:, None]
    areas = (moved[:, 2:] - moved[:, :2]).prod(1)
    order = np.argsort(-scores, kind='stable')
    kept: list[int] = []
    while len(order) and len(kept) != number:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low, high = (
            np.maximum(moved[best, :2], moved[order, :2]),
            np.minimum(moved[best, 2:], moved[order, 2:]),
        )
        shared = (high - low).clip(0).prod(1)
        order = order[~(shared > iou_threshold * (areas[best] + areas[order] - shared))]
    return kept
