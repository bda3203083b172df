"""Images as training sees them: augmented, with their ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from effvim.visualization.rendering import draw_instances, draw_label_map

CELL = 400  # pixels, side of an image in `tile`

COLUMNS = 4


def draw_training_image(image: np.ndarray, sample: Any, names: Sequence[str]) -> Image.Image:
    """Draw boxes and masks, or the label map, into an image of a training batch.

    Args:
        image: C H W, from 0 to 255: BGR, whose first three channels are drawn, or one or two
            channels, of which the first is drawn.
        sample: mmdet's data sample with `gt_instances`, or mmseg's with `gt_sem_seg`.
        names: class names by label.
    """
    colours = image[2::-1] if len(image) > 2 else np.repeat(image[:1], 3, 0)
    pixels = np.ascontiguousarray(colours.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data.squeeze(0).numpy()
        return draw_label_map(pixels, labels, names, legend=False)
    instances = sample.gt_instances
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes).numpy()
    masks = instances.masks.to_ndarray().astype(bool) if 'masks' in instances else None
    return draw_instances(pixels, boxes, instances.labels.numpy(), names, masks=masks)


def tile(images: Sequence[Image.Image]) -> Image.Image:
    """Images in rows of `COLUMNS` cells, each resized to fit its cell."""
    columns = min(COLUMNS, len(images))
    whole = Image.new('RGB', (columns * CELL, math.ceil(len(images) / columns) * CELL), 'white')
    for i, image in enumerate(images):
        factor = (CELL - 8) / max(image.size)
        small = image.resize([max(1, round(side * factor)) for side in image.size])
        whole.paste(small, (i % columns * CELL, i // columns * CELL))
    return whole
