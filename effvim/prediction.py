"""What a network found in one picture, and how it looks drawn into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .plots import colour

FONT = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'


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
            self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept],
            masks=None if self.masks is None else self.masks[kept])

    def draw(self, score_thr: float = 0.3) -> Image.Image:
        """The picture with boxes, names, scores and masks; or label colours and their legend."""
        if self.label_map is not None:
            return _with_label_map(self.picture, self.label_map, self.classes)
        return _with_objects(self.above(score_thr))


def palette(number: int) -> np.ndarray:
    """Colours of so many labels, number 3, uint8, RGB."""
    return np.rint([[255 * c for c in colour(i)] for i in range(number)]).astype(np.uint8)


def _font(width: int, height: int) -> ImageFont.FreeTypeFont:
    """Lettering that stays legible when the picture is shown as large as a screen."""
    return ImageFont.truetype(FONT, max(10, round(max(width, height) / 55)))


def _with_objects(found: Prediction) -> Image.Image:
    colours = palette(len(found.classes))
    pixels = found.picture.copy()
    order = range(len(found.labels))[::-1]  # the surest last, on top of the others
    if found.masks is not None:
        for i in order:
            mask = found.masks[i]
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * colours[found.labels[i]]
    image = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(image), _font(*image.size)
    line = max(2, round(max(image.size) / 400))
    for i in order:
        x1, y1, x2, y2 = found.boxes[i].tolist()
        edge = tuple(colours[found.labels[i]].tolist())
        draw.rectangle((x1, y1, x2, y2), outline=edge, width=line)
        text = f'{found.classes[found.labels[i]]} {found.scores[i]:.2f}'
        _, _, width, height = draw.textbbox((2, 0), text, font)
        # above the box; where there is no room, inside; never beyond the right edge
        x = max(0, min(x1, image.width - width - 2))
        y = y1 - height - 2 if y1 > height else y1
        draw.rectangle((x, y, x + width + 2, y + height + 2), fill=edge)
        draw.text((x + 2, y), text, 'black', font)
    return image


def _with_label_map(
    picture: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Image.Image:
    """The classes that occur are named below, the largest first."""
    colours = palette(len(classes))
    image = Image.fromarray((0.5 * picture + 0.5 * colours[labels]).astype(np.uint8))
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    present = [int(i) for i in np.argsort(-counts, kind='stable') if counts[i]]
    font = _font(*image.size)
    side = round(font.size)
    places, x, y = [], side // 2, image.height + side // 2
    for label in present:
        width = round(font.getlength(classes[label])) + 3 * side
        if x > side and x + width > image.width:
            x, y = side // 2, y + round(1.6 * side)
        places.append((x, y))
        x += width
    whole = Image.new('RGB', (image.width, y + round(1.6 * side)), 'white')
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for label, (x, y) in zip(present, places):
        draw.rectangle((x, y, x + side, y + side), fill=tuple(colours[label].tolist()))
        place = (x + round(1.4 * side), y + side // 2)
        draw.text(place, classes[label], 'black', font, anchor='lm')
    return whole
