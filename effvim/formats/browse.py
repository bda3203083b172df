"""Draw the annotations of a dataset into its images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from effvim.datasets.coco import encode_mask
from effvim.files import new_directory
from effvim.formats.dataset import AnnotatedImage, Dataset
from effvim.images import read_image
from effvim.visualization.rendering import draw_instances, draw_label_map


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
        return draw_label_map(pixels, np.asarray(Image.open(image.mask)), classes)
    instances = [instance for instance in image.instances if not instance.crowd]
    masks = None
    if any(instance.segmentation for instance in instances):
        masks = np.array([_mask(instance.segmentation, pixels.shape) for instance in instances])
    return draw_instances(
        pixels,
        np.array([instance.box for instance in instances]).reshape(-1, 4),
        np.array([instance.label for instance in instances], int),
        classes,
        masks=masks,
    )


def _mask(segmentation: object, shape: tuple[int, ...]) -> np.ndarray:
    """H W, bool; empty without segmentation."""
    height, width = shape[:2]
    if not segmentation:
        return np.zeros((height, width), bool)
    return rle.decode(encode_mask(segmentation, width, height)).astype(bool)
