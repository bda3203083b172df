"""Split a dataset into training and validation sets."""

from __future__ import annotations

import random
from collections import Counter

from backbone.errors import UserError
from effvim.formats.dataset import AnnotatedImage, Dataset


def split(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Split a dataset into train and val; the same seed gives the same split.

    Rare classes choose first: of each class, in the order of its number of images, val gets its
    fraction, at least one and never all if it has two or more, until val is full.

    Args:
        dataset: its own splits are merged.
        fraction: of the images that go to val.
        seed: random seed.

    Raises:
        UserError: a split would be empty.
    """
    images = sorted(dataset.images(), key=lambda image: image.name)
    num_val = round(fraction * len(images)) if 0 < fraction < 1 else 0
    if not 0 < num_val < len(images):
        raise UserError(
            f'--val {fraction:g} of {len(images)} images leaves a split empty: pass a '
            f'fraction between 0 and 1 that is at least one image'
        )
    random.Random(seed).shuffle(images)
    labels_of = [{instance.label for instance in image.instances} for image in images]
    num_images = Counter(label for labels in labels_of for label in labels)
    chosen: set[int] = set()
    left = Counter(num_images)  # images of a class that are left for training

    def choose(index: int) -> bool:
        """Move an image to val unless it is the last one in train of some class."""
        if index in chosen or not all(left[label] > 1 for label in labels_of[index]):
            return False
        chosen.add(index)
        left.subtract(labels_of[index])
        return True

    for label in sorted(num_images, key=lambda label: (num_images[label], label)):
        wanted = max(1, round(fraction * num_images[label])) if num_images[label] > 1 else 0
        count = sum(label in labels_of[i] for i in chosen)
        for i, labels in enumerate(labels_of):
            if count >= wanted or len(chosen) >= num_val:
                break
            count += label in labels and choose(i)
    for i in range(len(images)):  # images without instances, and what is still missing
        if len(chosen) >= num_val:
            break
        choose(i)
    if not 0 < len(chosen) < len(images):
        raise UserError(
            'every image is the only one of some class, so none can be spared for validation: '
            'add images'
        )

    def subset(in_val: bool) -> list[AnnotatedImage]:
        members = [image for i, image in enumerate(images) if (i in chosen) == in_val]
        return sorted(members, key=lambda image: image.name)

    return dataset._replace(splits={'train': subset(False), 'val': subset(True)})
