"""TODO effvim.inference.prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from effvim.visualization.rendering import _with_label_map, _with_objects


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found in one picture, in pixels of that picture; N objects, the surest first.

    Attributes:
        picture: H W 3, uint8, RGB: the picture upright, as its EXIF orientation says.
        classes: names by label.
        boxes: N 4, float32, x1 y1 x2 y2; without objects, and from a segmentor, N is 0.
        scores: N, float32, 0 to 1.
        labels: N, int64.
        masks: N H W, bool; None from networks without masks.
        label_map: H W, int64, the class of every pixel; None from detectors.
    """

    picture: np.ndarray
    classes: tuple[str, ...]
    boxes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None

    def above(self, score_thr: float) -> Prediction:
        """The same without objects whose score is lower than `score_thr`."""
        kept = self.scores >= score_thr
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def draw(self, score_thr: float = 0.3) -> Image.Image:
        """The picture with boxes, names, scores and masks; or label colours and their legend."""
        if self.label_map is not None:
            return _with_label_map(self.picture, self.label_map, self.classes)
        return _with_objects(self.above(score_thr))
