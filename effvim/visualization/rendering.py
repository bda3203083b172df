"""Predictions and ground truth drawn into images, for every command that shows them."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import supervision as sv

MASK_OPACITY = 0.5
MAX_FONTS = 16  # that are kept open
MOST_SPREAD = 200  # names: to move them takes memory and time with the square of their number


def class_colour(label: int) -> tuple[float, float, float]:
    """The colour of a class, RGB from 0 to 1, always the same for the same label.

    Neighbouring labels differ much: hues advance by the golden ratio.
    """
    return colorsys.hsv_to_rgb(label * 0.61803 % 1, 0.85, 1.0)


def class_palette(number: int) -> np.ndarray:
    """The colours of labels 0 to `number` - 1, number 3, uint8, RGB."""
    colours = [[255 * value for value in class_colour(label)] for label in range(number)]
    return np.rint(colours).astype(np.uint8).reshape(-1, 3)


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    masks: np.ndarray | sv.CompactMask | None = None,
    track_ids: np.ndarray | None = None,
) -> Image.Image:
    """Draw boxes, masks and class names into a copy of an image; the highest-scoring on top.

    Of overlapping masks the smaller one is on top. Names stay inside the image and are moved off
    one another, unless there are more than `MOST_SPREAD` of them.

    Args:
        image: H W 3, uint8, RGB.
        boxes: N 4, x1 y1 x2 y2 in pixels.
        labels: N, indices of `names`.
        names: class names by label.
        scores: N, written after the names if given.
        masks: N H W, bool, if there are any.
        track_ids: N, identities in a video, written after the names; those below 0 are not.
    """
    if not len(boxes):
        return Image.fromarray(image)

    import supervision as sv  # a second, mostly of scipy

    # what is drawn last is on top
    order = np.argsort(scores, kind='stable') if scores is not None else np.arange(len(boxes))
    if masks is not None and not isinstance(masks, sv.CompactMask):
        masks = np.asarray(masks, bool)
    instances = sv.Detections(
        np.asarray(boxes, np.float32)[order],
        mask=None if masks is None else masks[order],
        class_id=np.asarray(labels, int)[order],
    )
    texts = [names[label] for label in instances.class_id]
    if track_ids is not None:
        marks = [f' #{number}' if number >= 0 else '' for number in np.asarray(track_ids)[order]]
        texts = [f'{text}{mark}' for text, mark in zip(texts, marks)]
    if scores is not None:
        texts = [f'{text} {score:.2f}' for text, score in zip(texts, np.asarray(scores)[order])]
    colours, text_colours = _annotator_colours(len(names))
    scene: Any = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # as annotators take arrays
    if masks is not None:
        scene = sv.MaskAnnotator(colours, MASK_OPACITY).annotate(scene, instances)
    scene = sv.BoxAnnotator(colours, _line_width(image)).annotate(scene, instances)
    drawn = Image.fromarray(cv2.cvtColor(scene, cv2.COLOR_BGR2RGB))
    size = text_size(drawn)
    return sv.RichLabelAnnotator(
        colours,
        text_color=text_colours,
        font_path=font_file(''.join(names)),
        font_size=size,
        text_padding=max(1, size // 6),
        smart_position=len(instances) <= MOST_SPREAD,
    ).annotate(drawn, instances, texts)


def draw_label_map(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], legend: bool = True
) -> Image.Image:
    """Colour the pixels of an image by class, in a copy.

    Args:
        image: H W 3, uint8, RGB.
        labels: H W, indices of `names`; pixels with any other label stay as they are.
        names: class names by label.
        legend: name the classes that occur below the image, which makes the result higher.
    """
    # one look-up, where an annotator would need a mask for each class
    ignored = labels >= len(names)
    overlay = class_palette(len(names)).take(np.where(ignored, 0, labels), 0)
    overlay[ignored] = image[ignored]
    drawn = Image.fromarray(cv2.addWeighted(image, 1 - MASK_OPACITY, overlay, MASK_OPACITY, 0))
    return add_legend(drawn, labels, names) if legend else drawn


def add_legend(
    image: Image.Image, labels: np.ndarray, names: Sequence[str], size: int | None = None
) -> Image.Image:
    """Name the classes that occur in `labels` below an image, those of most pixels first.

    size: of the letters, in pixels; default: `text_size` of the image.
    """
    counts = np.bincount(labels[labels < len(names)].ravel(), minlength=len(names))
    present = [int(label) for label in np.argsort(-counts, kind='stable') if counts[label]]
    if not present:
        return image
    side = size or text_size(image)
    font = text_font(''.join(names), side)
    places, x, y = [], side // 2, image.height + side // 2
    for label in present:
        advance = round(font.getlength(names[label])) + 3 * side
        if x > side and x + advance > image.width:
            x, y = side // 2, y + round(1.6 * side)
        places.append((x, y))
        x += advance
    whole = Image.new('RGB', (image.width, y + round(1.6 * side)), 'white')
    whole.paste(image)
    draw, colours = ImageDraw.Draw(whole), class_palette(len(names)).tolist()
    for label, (x, y) in zip(present, places):
        draw.rectangle((x, y, x + side, y + side), fill=tuple(colours[label]))
        draw.text((x + round(1.4 * side), y + side // 2), names[label], 'black', font, anchor='lm')
    return whole


@functools.lru_cache(MAX_FONTS)
def font_file(text: str) -> str:
    """A font file with the characters of `text`.

    DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic and more. For other
    scripts it is the installed font that has most of the characters.
    """
    import matplotlib

    default = str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'))
    if text.isascii():
        return default

    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    wanted = set(map(ord, text))

    def missing(path: str) -> int:
        try:
            return len(wanted - FT2Font(path).get_charmap().keys())
        except (OSError, RuntimeError):  # of matplotlib's list, but removed since, or damaged
            return len(wanted) + 1

    if not missing(default):
        return default
    return min([default, *sorted({font.fname for font in fontManager.ttflist})], key=missing)


def text_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of `font_file` in a size in pixels."""
    return _face(font_file(text), size)


@functools.lru_cache(MAX_FONTS)
def _face(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def text_size(image: Image.Image) -> int:
    """Height of letters that stay legible when the image fills a screen, in pixels."""
    return max(10, round(max(image.size) / 55))


def _line_width(image: np.ndarray) -> int:
    return max(2, round(max(image.shape) / 600))


@functools.cache
def _annotator_colours(number: int) -> tuple[sv.ColorPalette, sv.ColorPalette]:
    """Colours of classes, and black or white for text on each of them."""
    import supervision as sv

    colours = [sv.Color(*colour) for colour in class_palette(number).tolist()]
    bright = class_palette(number) @ (0.299, 0.587, 0.114) > 110
    return sv.ColorPalette(colours), sv.ColorPalette(
        [sv.Color.BLACK if is_bright else sv.Color.WHITE for is_bright in bright]
    )
