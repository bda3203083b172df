"""Draw the annotations of a dataset into its images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from effvim.datasets.coco import encode_mask
from effvim.files import new_directory
from effvim.formats.dataset import AnnotatedImage, Dataset
from effvim.formats.label_maps import read_labels
from effvim.formats.outlines import mask_polygons
from effvim.images import read_image
from effvim.visualization.annotations import draw_annotations
from effvim.visualization.rendering import draw_label_map


def browse(dataset: Dataset, target: Path, limit: int, seed: int) -> int:
    """Draw some images of each split into a new directory; return how many.

    Args:
        dataset: what is drawn.
        target: the directory, which must not exist.
        limit: at most so many images of each split.
        seed: random seed of the choice.

    Raises:
        UserError: the directory exists, or an image cannot be read.
    """
    count = 0
    with new_directory(target) as directory:
        for split, images in dataset.splits.items():
            for image in random.Random(seed).sample(images, min(limit, len(images))):
                path = directory / split / f'{image.name.rpartition(".")[0]}.png'
                if path.exists():  # a.jpg next to a.png
                    path = directory / split / f'{image.name}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(image, dataset.classes).save(path)
                count += 1
    return count


def draw(image: AnnotatedImage, classes: Sequence[str]) -> Image.Image:
    """An image with its boxes, segmentations and class names, or with its mask and a legend."""
    pixels = read_image(image.path)
    if image.mask:
        labels = read_labels(image.mask, (image.width, image.height), len(classes))
        return draw_label_map(pixels, labels, classes)
    instances = [instance for instance in image.instances if not instance.crowd]
    return draw_annotations(
        pixels,
        np.array([instance.box for instance in instances]).reshape(-1, 4),
        np.array([instance.label for instance in instances], int),
        classes,
        [_outlines(instance.segmentation, pixels.shape) for instance in instances],
    )


def _outlines(segmentation: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Polygons, each N 2; none without segmentation."""
    height, width = shape[:2]
    if isinstance(segmentation, dict):
        return mask_polygons(rle.decode(encode_mask(segmentation, width, height)))
    return [np.reshape(polygon, (-1, 2)) for polygon in segmentation or []]
