"""Images with mask PNGs, whose pixels are classes: read, and written as training reads them.

A directory has images/, masks/ (or annotations/, SegmentationClass/), each with a file of the same
name for every image, and classes.txt: a name a line, the first for value 0. Pixels of value 255 are
ignored.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.formats.dataset import (
    Dataset,
    Instance,
    find_files,
    group_by_split,
    images_by_stem,
    open_image,
)
from effvim.images import read_image

CLASSES = 'classes.txt'

FOLDERS = ('masks', 'annotations', 'SegmentationClass')

SAME_SUFFIX = {'.jpeg': '.jpg', '.tiff': '.tif'}

ADE_SPLITS = {'train': 'training', 'val': 'validation'}  # directories that the configs look for


def find_masks(root: Path) -> Path | None:
    """The directory of the masks; None if this is no such dataset."""
    candidates = (root / name for name in FOLDERS)
    return next((c for c in candidates if c.is_dir() and find_files(c, ['.png'])), None)


def read_classes(root: Path) -> tuple[str, ...]:
    """The names in classes.txt, in the order of their values.

    Raises:
        UserError: it is absent, or is not a list of names.
    """
    path = root / CLASSES
    if not path.is_file():
        raise UserError(
            f'{path} not found: it must name the classes of the masks, one a line, '
            f'the first for value 0'
        )
    lines = path.read_text('utf-8-sig').rstrip().splitlines()
    names = tuple(line.strip() for line in lines)
    if not all(names):
        value = names.index('')
        raise UserError(f'{path}, line {value + 1} is empty: which class has the value {value}?')
    if not 2 <= len(names) <= ade.UNLABELLED:
        raise UserError(f'{path} has {len(names)} names: needed are 2 to {ade.UNLABELLED}')
    return names


def read(root: Path) -> Dataset:
    """Read the dataset in a directory that `find_masks` accepts.

    Raises:
        UserError: a file is absent, cannot be read, of another size, or has values without name.
    """
    classes, mask_folder = read_classes(root), find_masks(root)
    assert mask_folder
    image_folder = next(
        (root / name for name in ('images', 'JPEGImages') if (root / name).is_dir()),
        root / 'images',
    )
    images = images_by_stem(
        [
            open_image(file, file.relative_to(image_folder).as_posix())
            for file in find_files(image_folder)
        ],
        'mask',
    )
    masks = {
        file.relative_to(mask_folder).with_suffix('').as_posix(): file
        for file in find_files(mask_folder, ['.png'])
    }
    for what, stems, others in (('images', images, masks), ('masks', masks, images)):
        alone = sorted(stems.keys() - others.keys())
        if alone:
            raise UserError(
                f'{root}: {len(alone)} of {len(stems)} {what} have no partner of the '
                f'same name, e.g. {alone[0]}'
            )
    values: set[int] = set()
    annotated = []
    for stem, image in images.items():
        labels = ade.check_labels(masks[stem], (image.width, image.height), len(classes), False)
        values.update(np.unique(labels).tolist())
        annotated.append(image._replace(instances=_regions(labels), mask=masks[stem]))
    if values == {0, ade.UNLABELLED}:
        raise UserError(
            f'{mask_folder} holds only the values 0 and 255, and pixels of value 255 are ignored: '
            f'write 1 for class {classes[1]!r}, 2 for the next'
        )
    if len(values - {ade.UNLABELLED}) < 2:
        raise UserError(
            f'{mask_folder} holds only the value {min(values)}: there is nothing to learn'
        )
    return Dataset(root, classes, group_by_split(annotated, image_folder))


def _regions(labels: np.ndarray) -> list[Instance]:
    """One for each class in a mask, with the box around its pixels."""
    regions = []
    for label in np.unique(labels[labels != ade.UNLABELLED]).tolist():
        inside = labels == label
        x, y = (np.flatnonzero(inside.any(axis)) for axis in (0, 1))
        box = float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)
        regions.append(Instance(label, box, area=float(inside.sum())))
    return regions


def write(dataset: Dataset, directory: Path) -> None:
    """Write images/ and annotations/, with training/ and validation/, and classes.txt."""
    suffix = common_suffix([image.name for image in dataset.images()])
    for split, images in dataset.splits.items():
        name = ADE_SPLITS.get(split, '' if split == 'all' else split)
        for stem, image in images_by_stem(images, 'mask').items():
            assert image.mask
            for kind, file, end in (
                ('images', image.path, suffix),
                ('annotations', image.mask, '.png'),
            ):
                target = directory / kind / name / f'{stem}{end}'
                target.parent.mkdir(parents=True, exist_ok=True)
                if common_suffix([file.name]) == end:
                    shutil.copyfile(file, target)
                else:
                    Image.fromarray(read_image(file)).save(target)
    (directory / CLASSES).write_text('\n'.join(dataset.classes) + '\n', 'utf-8')


def common_suffix(names: Sequence[str]) -> str:
    """The suffix of files of these names; .png, which is lossless, if they differ."""
    suffixes = {SAME_SUFFIX.get(end, end) for end in (Path(name).suffix.lower() for name in names)}
    return suffixes.pop() if len(suffixes) == 1 else '.png'
