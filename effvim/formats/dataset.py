"""A dataset of your own, in whatever format it came: images, instances, classes and splits."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import UnidentifiedImageError

from backbone.errors import UserError
from effvim.formats.label_maps import LabelMap
from effvim.images import examine_image, stored_size

# Names of splits as datasets write them: the names used here.
SPLITS = {
    'train': 'train',
    'training': 'train',
    'trn': 'train',
    'val': 'val',
    'valid': 'val',
    'dev': 'val',
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
        area: in pixels; None if it is the box's, or the segmentation's.
        origin: where it is written, e.g. a file and a line, for messages.
    """

    label: int
    box: tuple[float, float, float, float]
    segmentation: Any = None
    crowd: bool = False
    area: float | None = None
    origin: str = ''


class AnnotatedImage(NamedTuple):
    """One image with its annotations.

    Attributes:
        path: its file.
        name: its name below the directory of the images, with /.
        width: in pixels, upright.
        height: in pixels, upright.
        instances: the objects; with a mask, one region for each class in it.
        mask: in datasets for segmentors, the class of every pixel.
    """

    path: Path
    name: str
    width: int
    height: int
    instances: list[Instance]
    mask: LabelMap | None = None


class Dataset(NamedTuple):
    """A dataset.

    Attributes:
        source: where it was read from, for messages.
        classes: names by label.
        splits: the images of train, val and test, or of `all` where the source has no splits.
    """

    source: Path
    classes: tuple[str, ...]
    splits: dict[str, list[AnnotatedImage]]

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
    """The split that a directory is named after, e.g. train for train2017."""
    return SPLITS.get(re.sub(r'\d{4}$', '', name.lower()))


def split_in_name(name: str) -> str | None:
    """The one split that a file's name holds among other words, e.g. val for coco_valid_v2."""
    words = re.findall('[a-z]+', name.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def group_by_split(images: Sequence[AnnotatedImage], root: Path) -> dict[str, list[AnnotatedImage]]:
    """Splits by the first directories of the images' names; `all` where those name no splits.

    Raises:
        UserError: only some of them do, or two images of a split have one name.
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
    for split, own in splits.items():
        by_name: dict[str, Path] = {}
        for image in own:
            other = by_name.setdefault(image.name, image.path)
            if other != image.path:
                raise UserError(
                    f'{other} and {image.path} would be one image of the split {split}: rename '
                    f'one of them'
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
        why = str(error).removeprefix(f'{path}: ')
        if isinstance(error, UnidentifiedImageError):
            why = 'it is of no kind that is read'
        raise UserError(f'{path} cannot be read or is truncated: {why}; replace it') from error
    return AnnotatedImage(path, name, width, height, [])


def check_size(image: AnnotatedImage, stated: tuple[int, int], path: Path) -> None:
    """Check that an image has the width and height that the annotation file `path` states.

    Raises:
        UserError: it has not.
    """
    if stated == (image.width, image.height):
        return
    text = (
        f'{image.path} has {image.width} × {image.height} pixels, {path} '
        f'says {stated[0]} × {stated[1]}'
    )
    if stated == stored_size(image.path):
        raise UserError(
            f'{text}, the size before the camera turned it: annotate it upright, or remove its '
            f'EXIF orientation'
        )
    raise UserError(f'{text}: do they belong to the same image?')


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


def copy_image(image: AnnotatedImage, folder: Path) -> None:
    """Copy an image into `folder`, under its name."""
    path = folder / image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image.path, path)
