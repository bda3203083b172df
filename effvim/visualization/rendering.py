"""Pictures for people: training curves, predictions beside the truth.

Several runs in one plot: `python -m effvim.plots RUN_DIR RUN_DIR … --out FILE`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image, ImageDraw, ImageFont

from effvim.images import read_image

pass
from effvim.inference.prediction import Prediction


def class_colour(index: int) -> tuple[float, float, float]:
    """A colour for class `index`; neighbours differ much (golden-ratio steps of hue)."""
    return colorsys.hsv_to_rgb(index * 0.61803 % 1, 0.85, 1.0)


def save_comparison(
    sample: Any, classes: Sequence[str], path: Path, score_thr: float = 0.3
) -> None:
    """Save `beside_truth` as a PNG, `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(sample, classes, score_thr).savefig(path, dpi=110)


def draw_comparison(sample: Any, classes: Sequence[str], score_thr: float = 0.3) -> Figure:
    """One picture of two panels.

    Args:
        sample: mmdet's data sample with `gt_instances` and `pred_instances`, boxes x1 y1 x2 y2 in
            pixels of the original picture; or mmseg's with label maps of the picture's size.
        classes: names by label.
        score_thr: predictions of lower score are left out.
    """
    image = read_image(sample.img_path)
    height, width = image.shape[:2]
    scale = 4.5 / max(height, width)
    figure = Figure(figsize=(2 * width * scale + 0.2, height * scale + 0.35), layout='constrained')
    left, right = figure.subplots(1, 2)
    if 'pred_sem_seg' in sample:
        truth, found = (
            part.data.squeeze(0).cpu().numpy() for part in (sample.gt_sem_seg, sample.pred_sem_seg)
        )
        _draw_label_map(left, image, 'truth', truth, len(classes))
        _draw_label_map(right, image, 'prediction', found, len(classes))
        _draw_legend(figure, classes, np.union1d(truth, found))
    else:
        _draw_instances(left, right, image, sample, classes, score_thr)
    return figure


def _draw_label_map(
    axes: Axes, image: np.ndarray, title: str, labels: np.ndarray, number: int
) -> None:
    """`labels`: H W; pixels whose label is not below `number` stay as they are."""
    paint = np.zeros((256, 4))
    paint[:number] = [(*class_colour(i), 0.55) for i in range(number)]
    axes.imshow(image)
    axes.imshow(paint[labels])
    axes.set_title(title, fontsize=9)
    axes.axis('off')


def _draw_legend(figure: Figure, classes: Sequence[str], labels: np.ndarray) -> None:
    """The classes among `labels`, below the panels, which stay as large as they are."""
    handles = [Patch(fc=class_colour(i), label=classes[i]) for i in labels if i < len(classes)]
    columns = max(1, int(figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns) + 0.1)
    figure.legend(
        handles=handles, loc='outside lower center', ncols=columns, fontsize=6, frameon=False
    )


def _draw_instances(
    left: Axes,
    right: Axes,
    image: np.ndarray,
    sample: Any,
    classes: Sequence[str],
    score_thr: float,
) -> None:
    truth, found = sample.gt_instances, sample.pred_instances
    found = found[found.scores >= score_thr]
    found = found[found.scores.argsort()]  # the surest last, on top of the others
    _draw_panel(left, image, 'truth', truth, classes)
    _draw_panel(right, image, f'prediction (score ≥ {score_thr})', found, classes)


def _draw_panel(
    axes: Axes, image: np.ndarray, title: str, objects: Any, classes: Sequence[str]
) -> None:
    """`objects`: mmdet's instances with bboxes (N, 4), labels (N,), perhaps scores and masks."""
    axes.imshow(image)
    axes.set_title(title, fontsize=9)
    axes.axis('off')
    boxes = getattr(objects.bboxes, 'tensor', objects.bboxes)
    for i in range(len(objects)):
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        label = int(objects.labels[i])
        edge = class_colour(label)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.4, ec=edge))
        if 'masks' in objects:
            mask = objects.masks[i]  # a tensor predicted, BitmapMasks in the truth
            mask = np.asarray(mask.masks[0] if hasattr(mask, 'masks') else mask.cpu(), bool)
            axes.imshow(mask[..., None] * (*edge, 0.5))
        text = classes[label]
        if 'scores' in objects:
            text += f' {float(objects.scores[i]):.2f}'
        axes.text(
            x1,
            y1,
            text,
            fontsize=6,
            va='bottom',
            clip_on=True,
            bbox=dict(boxstyle='square,pad=0.1', fc=edge, ec='none', alpha=0.8),
        )


FONT = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'


def palette(number: int) -> np.ndarray:
    """Colours of so many labels, number 3, uint8, RGB."""
    return np.rint([[255 * c for c in class_colour(i)] for i in range(number)]).astype(np.uint8)


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


def _with_label_map(picture: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
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
