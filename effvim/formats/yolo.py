"""YOLO's data.yaml: read, and written with images and label files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.files import numbered_lines
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    copy_image,
    images_by_stem,
    split_named,
)
from effvim.formats.findings import Findings, Kind
from effvim.formats.opening import note_unread, open_images
from effvim.formats.outlines import as_one_polygon
from effvim.formats.places import visible_files
from effvim.formats.yolo_labels import add_labels, check_all_used, label_folders
from effvim.images import TRAINED_SUFFIXES, UNREAD_SUFFIXES, find_files

YAML = ('.yaml', '.yml')


def find_yaml(root: Path) -> Path | None:
    """The YAML file in a directory that describes a dataset.

    Raises:
        UserError: there are several.
    """
    files = [file for file in visible_files(root, YAML) if _describes(file)]
    usual = [file for file in files if file.stem.lower() in ('data', 'dataset')]
    files = usual or files
    if len(files) > 1:
        raise UserError(
            f'{root} has several descriptions of a dataset, {", ".join(f.name for f in files)}: '
            f'pass one of them itself'
        )
    return files[0] if files else None


def _describes(path: Path) -> bool:
    if path.stem.lower() in ('data', 'dataset'):
        return True
    try:
        content = yaml.safe_load(path.read_text('utf-8-sig'))
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and 'names' in content


def read(path: Path, findings: Findings) -> Dataset:
    """Read the dataset that a data.yaml describes.

    Args:
        path: the file.
        findings: receives what is wrong with images and label files.

    Raises:
        UserError: it cannot be read or is wrong, or names what does not exist.
    """
    try:
        content = yaml.safe_load(path.read_text('utf-8-sig'))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f'{path} is not YAML: {error}') from error
    content = content if isinstance(content, dict) else {}
    names = _names(path, content.get('names'))
    count = content.get('nc')
    if type(count) is int and count != len(names):
        findings.note(f'{path}: nc is {count}, but there are {len(names)} names: nc is ignored')
    base = content.get('path') or '.'
    if not isinstance(base, str):
        raise UserError(f'{path}: path must be the name of a directory')
    if 'kpt_shape' in content:
        raise UserError(f'{path}: kpt_shape says that its lines hold keypoints, which are not read')
    splits: dict[str, list[AnnotatedImage]] = {}
    for key, where in content.items():
        split = split_named(key) if isinstance(key, str) and where else None
        if split is None:
            continue
        if split in splits:
            raise UserError(f'{path}: {key} is a second {split}: keep one of them')
        places = where if isinstance(where, list) else [where]
        if not all(isinstance(place, str) and place for place in places):
            raise UserError(
                f'{path}: {key} must name a directory of images, a text file that lists images, '
                f'or several of them, got {where!r:.99}'
            )
        try:
            found = [_find_place(path, base, place, findings) for place in places]
        except UserError:
            if split != 'test':
                raise
            findings.note(f'{path}: {key} names {where}, which does not exist: it is ignored')
            continue
        splits[split] = _read_split(found, names, path, split, findings)
    if not splits:
        raise UserError(f'{path} names no directory of images: it needs train, val or test')
    return numbered(Dataset(path, (), splits), names, findings)


def _names(path: Path, names: Any) -> dict[int, str]:
    """The names by number; those of a mapping may leave numbers away."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict):
        names = {
            int(key) if isinstance(key, str) and key.isdecimal() else key: value
            for key, value in names.items()
        }
    if (
        not isinstance(names, dict)
        or not names
        or not all(type(n) in (str, int) for n in names.values())
        or not all(type(key) is int and key >= 0 for key in names)
    ):
        raise UserError(
            f'{path}: names must be a list of class names, or a mapping that gives a name to '
            f'each number from 0; a name like yes or 1.0 needs quotes'
        )
    return {key: str(name).strip() for key, name in names.items()}


def numbered(dataset: Dataset, names: Mapping[int, str], findings: Findings) -> Dataset:
    """A dataset whose labels are numbers of `names`, with labels that are indices of classes."""
    numbers = sorted(names)
    absent = sorted(set(range(numbers[-1])) - set(numbers))
    if absent:
        findings.note(
            f'{dataset.source}: names has no name for {coco.some(absent, 9)}, which no label '
            f'uses: the classes are those with a name'
        )
        label_of = {number: label for label, number in enumerate(numbers)}
        for image in dataset.images():
            image.instances[:] = [
                instance._replace(label=label_of[instance.label]) for instance in image.instances
            ]
    return dataset._replace(classes=tuple(names[number] for number in numbers))


def _find_place(path: Path, base: str, place: str, findings: Findings) -> Path:
    """A directory, or a list of files, that data.yaml names.

    Roboflow writes ../train/images for what is next to data.yaml; others write where the dataset
    was on another machine.
    """
    # links stay unresolved, since labels are found by the name of the directory
    root = Path(os.path.abspath(path.parent / base))
    place = place.replace('\\', '/')
    for candidate in (root / place, root / place.removeprefix('../')):
        if candidate.exists():
            return Path(os.path.abspath(candidate))
    parts = [part for part in place.split('/') if part not in ('', '.', '..')]
    for i in range(len(parts)):
        candidate = path.parent.joinpath(*parts[i:])
        if candidate.exists():
            findings.note(f'{path}: {root / place} does not exist; {candidate} is used')
            return Path(os.path.abspath(candidate))
    raise UserError(f'{path}: {root / place} not found: fix path, or {place}')


def _read_split(
    places: Sequence[Path], names: Mapping[int, str], path: Path, split: str, findings: Findings
) -> list[AnnotatedImage]:
    """The images of a split with their instances."""
    folders = [place for place in places if place.suffix != '.txt']
    files: list[Path] = []
    for place in places:
        if place.suffix == '.txt':
            files += listed_images(place, path.parent, findings)
        else:
            files += find_files(place, (*TRAINED_SUFFIXES, *UNREAD_SUFFIXES))
    return read_files(files, folders, names, path, split, findings)


def read_files(
    files: Sequence[Path],
    folders: Sequence[Path],
    names: Mapping[int, str],
    source: Path,
    split: str,
    findings: Findings,
) -> list[AnnotatedImage]:
    """Images with the instances of their label files.

    Args:
        files: the images, of kinds that are not read as well.
        folders: directories below which they lie.
        names: of the classes, by number.
        source: the file that gives the names.
        split: their split, for messages.
        findings: receives what is wrong.

    Raises:
        UserError: there is no label file at all, or two images would share one.
    """
    readable = [file for file in files if file.suffix.lower() not in UNREAD_SUFFIXES]
    note_unread([file for file in files if file not in set(readable)], findings)
    if not readable:
        return []
    top = Path(os.path.commonpath([*folders, *(file.parent for file in readable)]))
    images = open_images(readable, top, findings)
    images_by_stem(list({image.path: image for image in images}.values()), 'label file')
    without = add_labels(images, names, source, findings)
    if without and len(without) == len(images) and split != 'test':
        looked = ', '.join(map(str, label_folders(without[0].parent)))
        raise UserError(
            f'{source}: no image of {split} has a label file; looked for '
            f'{without[0].stem}.txt in {looked}: images/ and labels/ are expected next to each '
            f'other, with equal names below, or labels next to their images'
        )
    if without:
        findings.note(
            f'{split}: {len(without)} of {len(images)} images have no label file: they count as '
            f'images without objects'
        )
    check_all_used(files, folders, findings)
    return images


def listed_images(path: Path, root: Path, findings: Findings) -> list[Path]:
    """The images that a text file names, one a line, relative to the file or to `root`.

    Their paths may begin with directories of another machine.

    Raises:
        UserError: it names no image.
    """
    files = []
    for number, line in numbered_lines(path).items():
        file = next((f for f in _candidates(line.strip(), path.parent, root) if f.is_file()), None)
        if file:
            files.append(Path(os.path.abspath(file)))
        else:
            text = f'{path}, line {number}: image {line.strip()} does not exist'
            findings.add(Kind.NOT_FOUND, text, path.parent / line.strip())
    if not files and not findings.defects:
        raise UserError(f'{path} names no image: add some, or remove it from data.yaml')
    return files


def _candidates(line: str, *folders: Path) -> Iterator[Path]:
    parts = line.replace('\\', '/').split('/')
    for i in range(len(parts)):
        for folder in folders:
            yield folder / '/'.join(parts[i:])


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
    """A polygon, if there is a segmentation, otherwise a box.

    Seven decimals: with five, half a pixel would be lost in an image of 50,000.
    """
    w, h = image.width, image.height
    polygon = as_one_polygon(instance.segmentation, w, h)
    if polygon:
        values = [value / (h if i % 2 else w) for i, value in enumerate(polygon)]
    else:
        x1, y1, x2, y2 = instance.box
        values = [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]
    return ' '.join([str(instance.label), *(f'{value:.7f}' for value in values)])
