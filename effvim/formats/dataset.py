"""A dataset of your own, in whatever format it came: images, instances, classes and splits."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import UserError
from effvim.datasets.boxes import BoxProblem, box_problem, clip_box
from effvim.images import IMAGE_SUFFIXES, examine_image

# Names of splits as datasets write them: the names used here.
SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}


class Instance(NamedTuple):
    """One object in an image.

    Attributes:
        label: index into the classes.
        box: x1, y1, x2, y2 in pixels.
        segmentation: as COCO writes it; None if the format has none.
        crowd: whether it is a group of objects in one box.
        area: in pixels; None if it is the box's.
    """

    label: int
    box: tuple[float, float, float, float]
    segmentation: Any = None
    crowd: bool = False
    area: float | None = None


class AnnotatedImage(NamedTuple):
    """One image with its annotations.

    Attributes:
        path: its file.
        name: its name below the directory of the images, with /.
        width: in pixels, upright.
        height: in pixels, upright.
        instances: the objects; with a mask, one region for each class in it.
        mask: in datasets for segmentors, the file with the class of every pixel.
    """

    path: Path
    name: str
    width: int
    height: int
    instances: list[Instance]
    mask: Path | None = None


class Dataset(NamedTuple):
    """A dataset.

    Attributes:
        source: where it was read from, for messages.
        classes: names by label.
        splits: the images of train, val and test, or of `all` where the source has no splits.
        notes: what is unusual in the source, and how it was understood.
    """

    source: Path
    classes: tuple[str, ...]
    splits: dict[str, list[AnnotatedImage]]
    notes: tuple[str, ...] = ()

    def images(self) -> list[AnnotatedImage]:
        """Those of all splits; if two share a name, all names begin with their split's."""
        merged = [image for images in self.splits.values() for image in images]
        if len({image.name for image in merged}) == len(merged):
            return merged
        return [
            image._replace(name=f'{split}/{image.name}')
            for split, images in self.splits.items()
            for image in images
        ]


def split_named(name: str) -> str | None:
    """The split that a file or directory name stands for, e.g. train for train2017."""
    return SPLITS.get(re.sub(r'\d{4}$', '', name.lower()))


def group_by_split(images: Sequence[AnnotatedImage], root: Path) -> dict[str, list[AnnotatedImage]]:
    """Splits by the first directories of the images' names; `all` where those name no splits.

    Raises:
        UserError: only some of them do.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    for image in images:
        first, slash, rest = image.name.partition('/')
        split = split_named(first) if slash else None
        splits.setdefault(split or 'all', []).append(image._replace(name=rest) if split else image)
    if 'all' in splits and len(splits) > 1:
        raise UserError(
            f'{root} has directories for splits and images that are in none of them, e.g. '
            f'{splits["all"][0].name}: move these into train, val or test'
        )
    return splits or {'all': []}


def open_image(path: Path, name: str) -> AnnotatedImage:
    """An image without instances, of the size that training sees.

    Raises:
        UserError: it cannot be read, or is truncated.
    """
    try:
        (width, height), _ = examine_image(path)
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        raise UserError(f'{path} cannot be read or is truncated: {error}; replace it') from error
    return AnnotatedImage(path, name, width, height, [])


def check_size(image: AnnotatedImage, stated: tuple[int, int], path: Path) -> None:
    """Check that an image has the width and height that the annotation file `path` states.

    Raises:
        UserError: it has not.
    """
    if stated != (image.width, image.height):
        raise UserError(
            f'{image.path} has {image.width} × {image.height} pixels, {path} '
            f'says {stated[0]} × {stated[1]}: do they belong to the same image?'
        )


def checked(dataset: Dataset, clip: bool) -> Dataset:
    """Check classes, splits and boxes; return the dataset with every box inside its image.

    Args:
        dataset: as it was read.
        clip: clip boxes that leave their image by more than a pixel; otherwise they are an error.

    Raises:
        UserError: something is wrong, or there is no image or no instance.
    """
    duplicates = any(count > 1 for count in Counter(dataset.classes).values())
    if duplicates or '' in dataset.classes:
        raise UserError(
            f'{dataset.source}: classes {", ".join(map(repr, dataset.classes))}: give each a '
            f'name of its own'
        )
    split_of: dict[Path, str] = {}
    for split, images in dataset.splits.items():
        if not images:
            raise UserError(
                f'{dataset.source}: the split {split} has no images: add some or remove the split'
            )
        for image in images:
            path = image.path.resolve()
            if path in split_of:
                other = split_of[path]
                problem = (
                    'twice: list it once'
                    if other == split
                    else f'and in {other}: remove it from one of them'
                )
                raise UserError(f'{image.path} is in {split} {problem}')
            split_of[path] = split
    if not any(image.instances for image in dataset.images()):
        raise UserError(
            f'{dataset.source}: no image has an instance: are the annotations where the format '
            f'expects them?'
        )
    return dataset._replace(
        splits={
            split: [_inside(image, clip) for image in images]
            for split, images in dataset.splits.items()
        }
    )


def _inside(image: AnnotatedImage, clip: bool) -> AnnotatedImage:
    """An image with the boxes of its instances clipped to it."""
    instances = []
    for instance in image.instances:
        problem = box_problem(instance.box, image.width, image.height)
        if problem and not (clip and problem is BoxProblem.LEAVES):
            corners = ', '.join(f'{value:.5g}' for value in instance.box)
            text = f'{image.path}: box {corners} (x1, y1, x2, y2) {problem.value}'
            if problem in (BoxProblem.OUTSIDE, BoxProblem.LEAVES):
                text += f' the image of {image.width} × {image.height} pixels'
            remedy = 'clip such boxes with --clip' if problem is BoxProblem.LEAVES else 'remove it'
            raise UserError(f'{text}: fix it, or {remedy}')
        box = clip_box(instance.box, image.width, image.height)
        if box != instance.box:
            segmentation = _clip_segmentation(instance.segmentation, image)
            instance = instance._replace(box=box, segmentation=segmentation, area=None)
        instances.append(instance)
    return image._replace(instances=instances)


def _clip_segmentation(segmentation: Any, image: AnnotatedImage) -> Any:
    """Polygons with every point inside the image; run lengths always are."""
    if not isinstance(segmentation, list):
        return segmentation
    size = np.array([image.width, image.height])
    return [
        np.clip(np.reshape(polygon, (-1, 2)), 0, size).ravel().tolist() for polygon in segmentation
    ]


def count_instances(images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, int]:
    """Number of instances of each class, without crowds."""
    counts = Counter(i.label for image in images for i in image.instances if not i.crowd)
    return {name: counts[label] for label, name in enumerate(classes)}


def images_by_stem(images: Sequence[AnnotatedImage], what: str) -> Mapping[str, AnnotatedImage]:
    """Images by their name without suffix, by which formats find the annotations of an image.

    Args:
        images: the images.
        what: that is found in this way, for the message.

    Raises:
        UserError: two images have the same.
    """
    by_stem: dict[str, AnnotatedImage] = {}
    for image in images:
        stem = os.path.splitext(image.name)[0]
        if stem in by_stem:
            raise UserError(
                f'{by_stem[stem].path} and {image.path} would share one {what}: rename one of them'
            )
        by_stem[stem] = image
    return by_stem


def find_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Files below `folder`, sorted, following links, without hidden ones.

    Raises:
        UserError: it is no directory. OSError: one inside cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f'directory {folder} not found')

    def stop(error: OSError) -> None:
        raise error

    paths, seen = [], set()
    for top, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith('.')]
        paths += [
            Path(top, file)
            for file in files
            if real not in seen
            and not file.startswith('.')
            and Path(file).suffix.lower() in suffixes
        ]
        seen.add(real)
    return sorted(paths)


def copy_image(image: AnnotatedImage, folder: Path) -> None:
    """Copy an image into `folder`, under its name."""
    path = folder / image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.path, path)
