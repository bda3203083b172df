"""What a network predicts for one image."""

from __future__ import annotations

import dataclasses
import difflib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.inference import conversions
from effvim.visualization.rendering import draw_instances, draw_label_map

if TYPE_CHECKING:
    import supervision as sv
    from supervision import CompactMask


def labels_of(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The labels of some classes of a network, whose names are `classes`.

    Raises:
        UserError: the network has no such class.
    """
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f'did you mean {near[0]}?' if near else f'it has {", ".join(classes[:5])} …'
            raise UserError(f'--classes {name}: the network has no such class; {hint}')
    return np.array([list(classes).index(name) for name in names], int)


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction for one image, in pixels of that image; N objects, highest-scoring first.

    Attributes:
        image: H W 3, uint8, RGB: the image upright, as its EXIF orientation says.
        classes: class names by label.
        boxes: N 4, float32, x1 y1 x2 y2; N is 0 without objects, and for segmentors.
        scores: N, float32, 0 to 1.
        labels: N, int64.
        masks: N H W, bool; None for networks without masks. Of an image in tiles a `CompactMask` of
            supervision, which has the same indices and keeps run-lengths instead of pixels.
        label_map: H W, int64, the class of every pixel; None for detectors. Of an image in tiles
            the smallest integers that hold all classes.
        track_ids: N, int64, the identity of each object in a video, from 1; -1 for objects without
            one; None without tracking.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    boxes: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 4), np.float32))
    scores: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    masks: np.ndarray | CompactMask | None = None
    label_map: np.ndarray | None = None
    track_ids: np.ndarray | None = None

    def above(self, score_thr: float) -> Prediction:
        """The same prediction without the objects that score lower than `score_thr`."""
        return self.only(self.scores >= score_thr)

    def only(self, kept: np.ndarray) -> Prediction:
        """The same prediction without some of the objects; kept: N, bool."""
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            masks=None if self.masks is None else self.masks[kept],
            track_ids=None if self.track_ids is None else self.track_ids[kept],
        )

    def shrunk(self, longest: int) -> Prediction:
        """The same prediction for a smaller image, whose longer side has at most `longest` pixels.

        Masks and label map take the nearest pixel.
        """
        height, width = self.image.shape[:2]
        if max(height, width) <= longest:
            return self
        scale = longest / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
            for new, old in zip(size, (height, width))
        )
        masks = self.masks
        if isinstance(masks, np.ndarray):
            masks = masks[:, rows][:, :, columns]
        elif masks is not None:
            masks = masks.resize(size)
        return dataclasses.replace(
            self,
            image=cv2.resize(self.image, size[::-1], interpolation=cv2.INTER_AREA),
            boxes=self.boxes * np.array([size[1] / width, size[0] / height] * 2, np.float32),
            masks=masks,
            label_map=None if self.label_map is None else self.label_map[rows][:, columns],
        )

    def to_supervision(self) -> sv.Detections:
        """A `supervision.Detections`, with class names in its `data`."""
        return conversions.to_supervision(self)

    def to_coco(
        self, image_id: int = 1, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO's results; see `effvim.inference.conversions.to_coco`."""
        return conversions.to_coco(self, image_id, category_ids)

    def to_yolo(self, with_scores: bool = False) -> str:
        """The content of a label file; see `effvim.inference.conversions.to_yolo`."""
        return conversions.to_yolo(self, with_scores)

    def to_labelme(self, image_path: str) -> dict[str, Any]:
        """The content of a file of Labelme; see `effvim.inference.conversions.to_labelme`."""
        return conversions.to_labelme(self, image_path)

    def to_geojson(self) -> dict[str, Any]:
        """A `FeatureCollection`; see `effvim.inference.conversions.to_geojson`."""
        return conversions.to_geojson(self)

    def to_label_studio(self, image_url: str, model_version: str = 'effvim') -> dict[str, Any]:
        """A task of Label Studio; see `effvim.inference.conversions.to_label_studio`."""
        return conversions.to_label_studio(self, image_url, model_version)

    def save_crops(self, folder: str | os.PathLike[str], name: str = 'object') -> list[Path]:
        """Save the image of each object as `folder/CLASS/NAME_NUMBER.png`; returns the paths."""
        return conversions.save_crops(self, Path(folder), name)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f'Prediction({self.summary()}; {width} × {height})'

    def summary(self) -> str:
        """What was predicted, in a few words, e.g. '3 objects: 2 person, 1 car'."""
        if self.label_map is not None:
            return ', '.join(f'{name} {fraction:.0%}' for name, fraction in self._fractions())
        number = len(self.boxes)
        each = Counter(self.classes[label] for label in self.labels).most_common()
        names = ', '.join(f'{count} {name}' for name, count in each)
        return f'{number} object{"s" * (number != 1)}' + f': {names}' * bool(names)

    def _fractions(self) -> list[tuple[str, float]]:
        """The classes of the label map and which fraction of the pixels each has, largest first."""
        assert self.label_map is not None
        counts = np.bincount(self.label_map.ravel(), minlength=len(self.classes))
        order = [i for i in np.argsort(-counts, kind='stable') if counts[i]]
        return [(self.classes[i], counts[i] / counts.sum()) for i in order]

    def __str__(self) -> str:
        """A table of the objects, or of the classes of a label map and their fraction."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.summary() if self.label_map is None else 'label map')
        if self.label_map is None:
            for name in ('class', 'score', 'x1', 'y1', 'x2', 'y2'):
                table.add_column(name, justify='left' if name == 'class' else 'right')
            for label, score, box in zip(self.labels, self.scores, self.boxes):
                table.add_row(self.classes[label], f'{score:.3f}', *(f'{v:.1f}' for v in box))
        else:
            table.add_column('class')
            table.add_column('pixels', justify='right')
            for name, fraction in self._fractions():
                table.add_row(name, f'{fraction:.0%}')
        text = io.StringIO()
        Console(markup=False, emoji=False, width=100, file=text).print(table)
        return text.getvalue().rstrip()

    def _repr_png_(self) -> bytes:
        """The drawn image, which notebooks show."""
        buffer = io.BytesIO()
        self.shrunk(2000).draw().save(buffer, 'PNG')
        return buffer.getvalue()

    def draw(self, score_thr: float = 0.3, *, legend: bool = True) -> Image.Image:
        """The image with boxes, class names, scores and masks; or coloured by its label map.

        Args:
            score_thr: objects that score lower are not drawn.
            legend: name the classes of the label map below the image, which makes it higher.
        """
        if self.label_map is not None:
            return draw_label_map(self.image, self.label_map, self.classes, legend)
        kept = self.above(score_thr)
        return draw_instances(
            self.image,
            kept.boxes,
            kept.labels,
            self.classes,
            kept.scores,
            kept.masks,
            kept.track_ids,
        )
