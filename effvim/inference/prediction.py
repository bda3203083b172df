"""What a network predicts for one image."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from effvim.visualization.rendering import draw_instances, draw_label_map


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image, in pixels of that image; N objects, highest-scoring first.

    Attributes:
        image: H W 3, uint8, RGB: the image upright, as its EXIF orientation says.
        classes: class names by label.
        boxes: N 4, float32, x1 y1 x2 y2; N is 0 without objects, and for segmentors.
        scores: N, float32, 0 to 1.
        labels: N, int64.
        masks: N H W, bool; None for networks without masks.
        label_map: H W, int64, the class of every pixel; None for detectors.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    boxes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None

    def above(self, score_thr: float) -> Prediction:
        """The same prediction without the objects that score lower than `score_thr`."""
        kept = self.scores >= score_thr
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def draw(self, score_thr: float = 0.3) -> Image.Image:
        """The image with boxes, class names, scores and masks; or with its label map and a legend.

        Objects that score lower than `score_thr` are not drawn.
        """
        if self.label_map is not None:
            return draw_label_map(self.image, self.label_map, self.classes)
        kept = self.above(score_thr)
        return draw_instances(
            self.image, kept.boxes, kept.labels, self.classes, kept.scores, kept.masks
        )
