"""Ground truth and prediction of one image next to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from effvim.config.tiling import TILED_MEGAPIXELS
from effvim.images import read_image
from effvim.visualization.rendering import (
    add_legend,
    draw_instances,
    draw_label_map,
    text_font,
    text_size,
)

PANEL_SIZE = 640  # long side of each image, pixels


def side_by_side(left: Image.Image, right: Image.Image, titles: tuple[str, str]) -> Image.Image:
    """Put two images next to each other, each below its title."""
    size = text_size(left)
    gap, top = size // 2, 2 * size
    start = left.width + gap
    whole = Image.new('RGB', (start + right.width, top + max(left.height, right.height)), 'white')
    draw, font = ImageDraw.Draw(whole), text_font(''.join(titles), size)
    for image, title, x in zip((left, right), titles, (0, start)):
        whole.paste(image, (x, top))
        draw.text((x + image.width // 2, top // 2), title, 'black', font, anchor='mm')
    return whole


def draw_comparison(sample: Any, names: Sequence[str], score_thr: float = 0.3) -> Image.Image:
    """Draw the ground truth of an image on the left, the prediction on the right.

    Args:
        sample: mmdet's data sample with `gt_instances` and `pred_instances`, boxes x1 y1 x2 y2 in
            pixels of the original image; or mmseg's with label maps of the image's size.
        names: class names by label.
        score_thr: predictions with a lower score are not drawn.
    """
    image = read_image(sample.img_path, max_megapixels=TILED_MEGAPIXELS)  # it was read once
    scale = PANEL_SIZE / max(image.shape)
    size = tuple(max(1, round(scale * side)) for side in image.shape[1::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if 'pred_sem_seg' in sample:
        maps = [
            _resized(pixels.data.squeeze(0).cpu().numpy(), size)
            for pixels in (sample.gt_sem_seg, sample.pred_sem_seg)
        ]
        panels = [draw_label_map(image, labels, names, legend=False) for labels in maps]
        both = side_by_side(panels[0], panels[1], ('ground truth', 'prediction'))
        return add_legend(both, np.stack(maps), names, text_size(panels[0]))
    panels = []
    for instances in (sample.gt_instances, sample.pred_instances):
        scores = instances.get('scores')
        if scores is not None:
            instances = instances[scores >= score_thr]
            scores = instances.scores.cpu().numpy()
        panels.append(
            draw_instances(
                image,
                scale * np.asarray(getattr(instances.bboxes, 'tensor', instances.bboxes).cpu()),
                instances.labels.cpu().numpy(),
                names,
                scores,
                _masks(instances, size),
            )
        )
    return side_by_side(panels[0], panels[1], ('ground truth', f'prediction (score ≥ {score_thr})'))


def save_comparison(sample: Any, names: Sequence[str], path: Path, score_thr: float = 0.3) -> None:
    """Save `draw_comparison` as a PNG; the directory is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(sample, names, score_thr).save(path)


def _masks(instances: Any, size: tuple[int, ...]) -> np.ndarray | None:
    """Masks of mmdet's instances at `size`, width and height. Shape: N H W, bool."""
    if 'masks' not in instances or not len(instances):
        return None
    masks = instances.masks  # predicted: a tensor; ground truth: BitmapMasks
    if isinstance(masks, list):  # run-lengths, of images in tiles
        masks = [rle.decode(code) for code in masks]
    else:
        masks = masks.masks if hasattr(masks, 'masks') else masks.cpu().numpy()
    return np.array([_resized(mask, size) for mask in masks], bool)


def _resized(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A label map or mask at `size`, width and height, without mixing labels."""
    return cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
