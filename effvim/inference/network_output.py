"""What a network gives for one image, whatever runs it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class NetworkOutput:
    """Objects, or a label map, in pixels of the image that was given; see `Prediction`.

    Attributes:
        boxes: N 4, float32; N is 0 for segmentors.
        scores: N, float32.
        labels: N, int64.
        masks: N H W, bool, or None.
        label_map: H W of a segmentor, int64, or None.
        logits: C H W of a segmentor, a tensor, if its runtime gives one for each class, else None.
    """

    boxes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    logits: Any = None

    @classmethod
    def of(cls, sample: Any) -> NetworkOutput:
        """What a data sample of mmdet or mmseg holds."""
        if 'pred_sem_seg' in sample:
            logits = sample.get('seg_logits')
            if logits is not None and len(logits.data) == 1:  # of two classes, before a threshold
                logits = None
            return cls(
                # not of integers where mmseg compares one output with a threshold
                label_map=sample.pred_sem_seg.data[0].long().cpu().numpy(),
                logits=None if logits is None else logits.data,
            )
        found = sample.pred_instances.cpu().numpy()
        return cls(found.bboxes, found.scores, found.labels, found.get('masks'))
