"""YOLO's data.yaml and label files: read and written.

Lines are parsed here and not by supervision, whose import takes longer than most conversions; it
also reads polygons as masks of pixels only, and ignores a sixth number silently.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.files import numbered_lines
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    copy_image,
    find_files,
    images_by_stem,
    open_image,
    split_named,
)


def read(path: Path) -> Dataset:
    """Read the dataset that a data.yaml describes.

    Raises:
        UserError: it, a label file or an image cannot be read or is wrong; names file and line.
    """
    try:
        content = yaml.safe_load(path.read_text('utf-8-sig'))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f'{path} is not YAML: {error}') from error
    names = content.get('names') if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(
            f'{path}: names must be a list of class names, or a mapping that gives a name to '
            f'each number from 0; a name like yes or 1 needs quotes'
        )
    base = content.get('path') or '.'
    if not isinstance(base, str):
        raise UserError(f'{path}: path must be the name of a directory')
    if 'kpt_shape' in content:
        raise UserError(f'{path}: kpt_shape says that its lines hold keypoints, which are not read')
    splits: dict[str, list[AnnotatedImage]] = {}
    notes = []
    for key, where in content.items():
        split = split_named(key) if isinstance(key, str) and where is not None else None
        if split is None:
            continue
        if split in splits:
            raise UserError(f'{path}: {key} is a second {split}: keep one of them')
        places = where if isinstance(where, list) and where else [where]
        if not all(isinstance(place, str) and place for place in places):
            raise UserError(
                f'{path}: {key} must name a directory of images, a text file that lists images, '
                f'or several of them, got {where!r:.99}'
            )
        images, unlabelled = _read_split(
            [_find_place(path, base, place) for place in places], len(names), path
        )
        if unlabelled:
            notes.append(
                f'{split}: {unlabelled} of {len(images)} images have no label file: they '
                f'count as images without objects'
            )
        splits[split] = images
    if not splits:
        raise UserError(f'{path} names no directory of images: it needs train, val or test')
    return Dataset(path, tuple(names), splits, tuple(notes))


def _find_place(path: Path, base: str, place: str) -> Path:
    """A directory, or a list of files, that data.yaml names.

    Roboflow writes ../train/images for what is next to data.yaml.
    """
    # links stay unresolved, since labels are found by the name of the directory
    root = Path(os.path.abspath(path.parent / base))
    for candidate in (root / place, root / place.removeprefix('../')):
        if candidate.exists():
            return Path(os.path.abspath(candidate))
    raise UserError(f'{path}: {root / place} not found: fix path, or {place}')


def _read_split(
    places: Sequence[Path], num_classes: int, path: Path
) -> tuple[list[AnnotatedImage], int]:
    """Images with their instances, and how many have no label file."""
    folders = [place for place in places if place.suffix != '.txt']
    files = [
        file
        for place in places
        for file in (_listed_images(place) if place.suffix == '.txt' else find_files(place))
    ]
    top = Path(os.path.commonpath([*folders, *(file.parent for file in files)]))
    images = [open_image(file, file.relative_to(top).as_posix()) for file in files]
    unlabelled = 0
    for image in images_by_stem(images, 'label file').values():
        file = _labels_of(image.path, path).with_suffix('.txt')
        if file.is_file():
            image.instances.extend(_read_labels(file, image, num_classes))
        else:
            unlabelled += 1
    for folder in folders:
        _check_all_used(_labels_of(folder, path), images, path)
    return images, unlabelled


def _listed_images(path: Path) -> list[Path]:
    """The images that a text file names, one a line, relative to the file."""
    files = [
        Path(os.path.abspath(path.parent / line.strip())) for line in numbered_lines(path).values()
    ]
    if not files:
        raise UserError(f'{path} names no image: add some, or remove it from data.yaml')
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(f'{path} names {len(absent)} images that do not exist, e.g. {absent[0]}')
    return files


def _labels_of(place: Path, path: Path) -> Path:
    """Where the labels of a directory of images, or of one image, are: images becomes labels."""
    if 'images' not in place.parts:
        raise UserError(
            f'{path}: {place} has no directory images in its path, and labels are expected '
            f'in the directory labels next to that one'
        )
    at = len(place.parts) - 1 - place.parts[::-1].index('images')
    return Path(*place.parts[:at], 'labels', *place.parts[at + 1 :])


def _check_all_used(labels: Path, images: Sequence[AnnotatedImage], path: Path) -> None:
    used = {_labels_of(image.path, path).with_suffix('.txt') for image in images}
    unused = [
        file
        for file in (find_files(labels, ['.txt']) if labels.is_dir() else [])
        if file not in used and file.name != 'classes.txt'  # labelImg's list of names
    ]
    if unused:
        raise UserError(
            f'{len(unused)} label files in {labels} have no image, e.g. {unused[0].name}'
        )


def _read_labels(file: Path, image: AnnotatedImage, num_classes: int) -> list[Instance]:
    instances = []
    for number, line in numbered_lines(file).items():
        try:
            instance = _read_line(line, image)
        except ValueError as error:
            raise UserError(f'{file}, line {number}: {error}') from error
        if not 0 <= instance.label < num_classes:
            raise UserError(
                f'{file}, line {number}: class {instance.label}, but the names of data.yaml go '
                f'from 0 to {num_classes - 1}'
            )
        instances.append(instance)
    return instances


def _read_line(line: str, image: AnnotatedImage) -> Instance:
    """The instance of a line: class, x and y of the centre, width, height; or class and polygon.

    Raises:
        ValueError: it is neither.
    """
    label, *values = map(float, line.split())
    is_polygon = len(values) > 5 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        raise ValueError(
            f'{1 + len(values)} numbers; a box is a class and 4 numbers, a polygon a class and at '
            f'least 3 pairs x, y'
        )
    if not all(map(math.isfinite, values)):
        raise ValueError('a number is not finite')
    if not label.is_integer():  # np.savetxt writes 1.0
        raise ValueError(f'class {label:g} is not a whole number')
    width, height = image.width, image.height
    if is_polygon:
        xs, ys = [x * width for x in values[0::2]], [y * height for y in values[1::2]]
        segmentation = [[value for point in zip(xs, ys) for value in point]]
        problem = coco.segmentation_problem(segmentation, width, height)
        if problem:
            raise ValueError(f'the line {problem}')
        return Instance(int(label), (min(xs), min(ys), max(xs), max(ys)), segmentation)
    x, y, w, h = values
    if w < 0 or h < 0:
        raise ValueError('the box has a negative side')
    box = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return Instance(int(label), box)


def write(dataset: Dataset, directory: Path) -> None:
    """Write data.yaml, images/ and labels/, with a directory for each split."""
    for split, images in dataset.splits.items():
        for stem, image in images_by_stem(images, 'label file').items():
            copy_image(image, directory / 'images' / split)
            path = directory / 'labels' / split / f'{stem}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [_line(instance, image) for instance in image.instances if not instance.crowd]
            path.write_text(''.join(f'{line}\n' for line in lines))
    # Ultralytics calls the only split train
    places = {'train' if split == 'all' else split: f'images/{split}' for split in dataset.splits}
    text = yaml.safe_dump(
        {**places, 'names': dict(enumerate(dataset.classes))}, allow_unicode=True, sort_keys=False
    )
    (directory / 'data.yaml').write_text(text, 'utf-8')


def _line(instance: Instance, image: AnnotatedImage) -> str:
    """Seven decimals: with five, half a pixel would be lost in an image of 50,000."""
    x1, y1, x2, y2 = instance.box
    w, h = image.width, image.height
    values = (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h
    return ' '.join([str(instance.label), *(f'{value:.7f}' for value in values)])
