"""Pictures with mask PNGs, whose pixels hold classes: read, and written as training reads them.

A folder has images/, masks/ (or annotations/, SegmentationClass/), each with a file of the same
name for every picture, and classes.txt: a name a line, the first is of value 0. Value 255 is of
pixels that do not count.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.formats.dataset import DataSet, Thing, by_folder, picture_of, stems, walk
from effvim.images import read_image

CLASSES = 'classes.txt'

FOLDERS = ('masks', 'annotations', 'SegmentationClass')

SAME = {'.jpeg': '.jpg', '.tiff': '.tif'}

WRITTEN = {'train': 'training', 'val': 'validation'}  # ADE20K's, which the configs look for


def folder_of(root: Path) -> Path | None:
    """Where the masks are, None where there are none."""
    return next(
        (root / name for name in FOLDERS if (root / name).is_dir() and walk(root / name, ['.png'])),
        None,
    )


def classes_in(root: Path) -> tuple[str, ...]:
    """The names in classes.txt, in the order of their values.

    Raises:
        UserError: it is absent, or is not a list of names.
    """
    path = root / CLASSES
    if not path.is_file():
        raise UserError(
            f'{path} not found: it must name the classes of the masks, a line each, '
            f'the first is of value 0'
        )
    lines = path.read_text('utf-8-sig').rstrip().splitlines()
    names = tuple(line.strip() for line in lines)
    if not all(names):
        raise UserError(
            f'{path}, line {names.index("") + 1} is empty: which class has the value '
            f'{names.index("")}?'
        )
    if not 2 <= len(names) <= ade.UNLABELLED:
        raise UserError(f'{path} has {len(names)} names: needed are 2 to {ade.UNLABELLED}')
    return names


def read(root: Path) -> DataSet:
    """The data set in a folder.

    Raises:
        UserError: a file is absent, cannot be read, of another size, or has values without name.
    """
    classes, masks = classes_in(root), folder_of(root)
    assert masks
    images = next(
        (root / name for name in ('images', 'JPEGImages') if (root / name).is_dir()),
        root / 'images',
    )
    files = walk(images)
    pictures = [picture_of(file, file.relative_to(images).as_posix()) for file in files]
    by_stem = stems(pictures, 'mask')
    own = {
        file.relative_to(masks).with_suffix('').as_posix(): file for file in walk(masks, ['.png'])
    }
    for these, those, what in ((by_stem, own, 'picture'), (own, by_stem, 'mask')):
        alone = sorted(these.keys() - those.keys())
        if alone:
            raise UserError(
                f'{root}: {len(alone)} of {len(these)} {what}s have no partner of the '
                f'same name, e.g. {alone[0]}'
            )
    values: set[int] = set()
    found = []
    for stem, picture in by_stem.items():
        labels = ade.check_labels(own[stem], (picture.width, picture.height), len(classes), False)
        values.update(np.unique(labels).tolist())
        found.append(picture._replace(things=_regions(labels), mask=own[stem]))
    if values == {0, ade.UNLABELLED}:
        raise UserError(
            f'{masks} holds only the values 0 and 255, and 255 means: does not count. '
            f'Write 1 for class {classes[1]!r}, 2 for the next'
        )
    if len(values - {ade.UNLABELLED}) < 2:
        raise UserError(f'{masks} holds only the value {min(values)}: there is nothing to learn')
    return DataSet(root, classes, by_folder(found, images))


def _regions(labels: np.ndarray) -> list[Thing]:
    """One for each class in a mask, with the box around its pixels."""
    found = []
    for label in np.unique(labels[labels != ade.UNLABELLED]).tolist():
        inside = labels == label
        x, y = (np.flatnonzero(inside.any(axis)) for axis in (0, 1))
        box = float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)
        found.append(Thing(label, box, area=float(inside.sum())))
    return found


def write(data: DataSet, folder: Path) -> None:
    """images/ and annotations/, with training/ and validation/, and classes.txt."""
    suffix = suffix_of([picture.name for picture in data.pictures()])
    for part, pictures in data.parts.items():
        name = WRITTEN.get(part, '' if part == 'all' else part)
        for stem, picture in stems(pictures, 'mask').items():
            assert picture.mask
            for kind, file, end in (
                ('images', picture.path, suffix),
                ('annotations', picture.mask, '.png'),
            ):
                target = folder / kind / name / f'{stem}{end}'
                target.parent.mkdir(parents=True, exist_ok=True)
                if suffix_of([file.name]) == end:
                    shutil.copyfile(file, target)
                else:
                    Image.fromarray(read_image(file)).save(target)
    (folder / CLASSES).write_text('\n'.join(data.classes) + '\n', 'utf-8')


def suffix_of(names: Sequence[str]) -> str:
    """What pictures of these names end with; .png, which loses nothing, where it is not one."""
    found = {SAME.get(end, end) for end in (Path(name).suffix.lower() for name in names)}
    return found.pop() if len(found) == 1 else '.png'
