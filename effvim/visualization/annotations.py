"""Annotations drawn into an image, legible with dozens of small objects.

Nothing of supervision, whose import takes longer than drawing: small images are enlarged, outlines
are thin, and a name is written only where it covers no object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from effvim.visualization.rendering import add_legend, class_palette, text_font

SIDE = 960  # pixels: images whose long side is below half of it are enlarged

MAX_FACTOR = 4

LETTERS = 14  # pixels

FILL = 56  # opacity of segmentations, of 255


def draw_annotations(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    outlines: Sequence[Sequence[np.ndarray]],
) -> Image.Image:
    """Draw boxes, segmentations and class names into an enlarged copy of an image.

    A class whose name finds no place is named in a legend below the image.

    Args:
        image: H W 3, uint8, RGB.
        boxes: N 4, x1 y1 x2 y2 in pixels.
        labels: N, indices of `names`.
        names: class names by label.
        outlines: of each object the polygons of its segmentation, each M 2; none without.
    """
    height, width = image.shape[:2]
    factor = max(1, min(MAX_FACTOR, SIDE // max(height, width)))
    drawn = Image.fromarray(image).resize(
        (width * factor, height * factor), Image.Resampling.BICUBIC
    )
    if not len(boxes):
        return drawn
    boxes, colours = np.asarray(boxes) * factor, class_palette(len(names)).tolist()
    line = max(1, round(max(drawn.size) / 700))
    filled = Image.new('RGBA', drawn.size)
    fill = ImageDraw.Draw(filled)
    for label, polygons in zip(labels, outlines):
        for polygon in polygons:
            points = [(float(x) * factor, float(y) * factor) for x, y in polygon]
            fill.polygon(points, (*colours[label], FILL))
            fill.line([*points, points[0]], (*colours[label], 255), line)
    drawn.paste(filled, mask=filled)
    draw = ImageDraw.Draw(drawn)
    for box, label in zip(boxes.tolist(), labels):
        x1, y1, x2, y2 = box
        draw.rectangle(
            (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), None, tuple(colours[label]), line
        )
    named = _write_names(drawn, boxes, labels, names, colours)
    absent = sorted({int(label) for label in labels} - named)
    if not absent:
        return drawn
    counts = np.repeat(absent, [int((np.asarray(labels) == label).sum()) for label in absent])
    return add_legend(drawn, counts, names, LETTERS)


def _write_names(
    image: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
) -> set[int]:
    """Write names where they cover neither objects nor each other; return the classes named.

    Larger objects choose first. Where an object's own box is large, its name may lie inside.
    """
    font = text_font(''.join(names), max(LETTERS, round(max(image.size) / 60)))
    draw, named = ImageDraw.Draw(image), set()
    taken = boxes.copy()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-areas, kind='stable').tolist():
        name, colour = names[labels[i]], colours[labels[i]]
        left, top, right, bottom = font.getbbox(name)
        size = right - left + 4, bottom - top + 4
        for x, y, inside in _places(boxes[i].tolist(), size, image.size):
            place = np.array([x, y, x + size[0], y + size[1]])
            others = np.delete(taken, i, 0) if inside else taken
            if _overlaps(others, place).any():
                continue
            draw.rectangle(tuple(place.tolist()), tuple(colour))
            bright = np.dot(colour, (0.299, 0.587, 0.114)) > 110
            draw.text((x + 2 - left, y + 2 - top), name, 'black' if bright else 'white', font)
            taken = np.vstack([taken, place])
            named.add(int(labels[i]))
            break
    return named


def _places(
    box: Sequence[float], size: tuple[float, float], image: tuple[int, int]
) -> Iterator[tuple[float, float, bool]]:
    """Corners for a name at a box: above, below, right, left; inside where it covers little."""
    x1, y1, x2, y2 = box
    w, h = size
    places = [(x1, y1 - h, False), (x1, y2, False), (x2, y1, False), (x1 - w, y1, False)]
    if w * h < 0.1 * (x2 - x1) * (y2 - y1):
        places.append((x1, y1, True))
    for x, y, inside in places:
        x = min(x, image[0] - w)
        if 0 <= x and 0 <= y <= image[1] - h and (inside or x >= x1 - w):
            yield x, y, inside


def _overlaps(boxes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Which boxes a place overlaps by more than a line: N, bool."""
    low, high = np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, 2:], place[2:])
    return (high - low > 1).all(1)
