"""Reading YOLO's data.yaml and label files.

What a line means is `supervision`'s to say. It reads polygons as masks of pixels and drops a
seventh number in silence: outlines and counts are taken here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from supervision.dataset.formats.yolo import yolo_annotations_to_detections

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.files import numbered_lines
from effvim.formats.dataset import DataSet, Picture, Thing, part_of, picture_of, stems, walk


def read(path: Path) -> DataSet:
    """The data set that a data.yaml describes.

    Raises:
        UserError: it, a label file or a picture cannot be read or is wrong; names file and line.
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
            f'{path}: names must be a list of class names, or give each number from 0 '
            f'one; a name like yes or 1 needs quotes'
        )
    base = content.get('path') or '.'
    if not isinstance(base, str):
        raise UserError(f'{path}: path must be the name of a folder')
    if 'kpt_shape' in content:
        raise UserError(f'{path}: kpt_shape says that its lines hold keypoints, which are not read')
    parts: dict[str, list[Picture]] = {}
    notes = []
    for key, where in content.items():
        part = part_of(key) if isinstance(key, str) and where is not None else None
        if part is None:
            continue
        if part in parts:
            raise UserError(f'{path}: {key} is a second {part}: leave one')
        places = where if isinstance(where, list) and where else [where]
        if not all(isinstance(place, str) and place for place in places):
            raise UserError(
                f'{path}: {key} must name a folder of pictures, a list of files, or '
                f'several of them, got {where!r:.99}'
            )
        pictures, bare = _part([_place(path, base, place) for place in places], len(names), path)
        if bare:
            notes.append(
                f'{part}: {bare} of {len(pictures)} pictures have no label file: they '
                f'count as pictures without objects'
            )
        parts[part] = pictures
    if not parts:
        raise UserError(f'{path} names no folder of pictures: it needs train, val or test')
    return DataSet(path, tuple(names), parts, tuple(notes))


def _place(path: Path, base: str, place: str) -> Path:
    """A folder, or a list of files, that data.yaml names.

    Roboflow writes ../train/images for what lies beside data.yaml.
    """
    root = Path(os.path.abspath(path.parent / base))  # links stay, labels are looked for by name
    for found in (root / place, root / place.removeprefix('../')):
        if found.exists():
            return Path(os.path.abspath(found))
    raise UserError(f'{path}: there is no {root / place}: mend path, or {place}')


def _part(places: Sequence[Path], number: int, path: Path) -> tuple[list[Picture], int]:
    """Pictures with their objects, and how many have no label file."""
    folders = [place for place in places if place.suffix != '.txt']
    files = [
        file
        for place in places
        for file in (_listed(place) if place.suffix == '.txt' else walk(place))
    ]
    top = Path(os.path.commonpath([*folders, *(file.parent for file in files)]))
    pictures = [picture_of(file, file.relative_to(top).as_posix()) for file in files]
    bare = 0
    for picture in stems(pictures, 'label file').values():
        file = _beside(picture.path, path).with_suffix('.txt')
        if file.is_file():
            picture.things.extend(_label_file(file, picture, number))
        bare += not file.is_file()
    for folder in folders:
        _check_all_used(_beside(folder, path), pictures, path)
    return pictures, bare


def _listed(path: Path) -> list[Path]:
    """Pictures that a text file names, a line each, as seen from the file."""
    files = [
        Path(os.path.abspath(path.parent / line.strip())) for line in numbered_lines(path).values()
    ]
    if not files:
        raise UserError(f'{path} names no picture: fill it, or take it out of data.yaml')
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(f'{path} names {len(absent)} pictures that are not there, e.g. {absent[0]}')
    return files


def _beside(place: Path, path: Path) -> Path:
    """Where labels of a folder of pictures, or of one picture, are: images becomes labels."""
    if 'images' not in place.parts:
        raise UserError(
            f'{path}: {place} has no folder images in its path, labels are looked for '
            f'in the folder labels beside that one'
        )
    at = len(place.parts) - 1 - place.parts[::-1].index('images')
    return Path(*place.parts[:at], 'labels', *place.parts[at + 1 :])


def _check_all_used(labels: Path, pictures: Sequence[Picture], path: Path) -> None:
    used = {_beside(picture.path, path).with_suffix('.txt') for picture in pictures}
    lost = [
        file
        for file in (walk(labels, ['.txt']) if labels.is_dir() else [])
        if file not in used and file.name != 'classes.txt'
    ]  # labelImg's list of names
    if lost:
        raise UserError(
            f'{len(lost)} label files in {labels} have no picture beside them, e.g. {lost[0].name}'
        )


def _label_file(file: Path, picture: Picture, number: int) -> list[Thing]:
    things = []
    for i, line in numbered_lines(file).items():
        values = line.split()
        polygon = len(values) > 6 and len(values) % 2 == 1
        if len(values) != 5 and not polygon:
            raise UserError(
                f'{file}, line {i}: {len(values)} numbers; a box is a class and 4, a '
                f'polygon a class and at least 3 pairs x, y'
            )
        try:
            found = yolo_annotations_to_detections(
                [line], (picture.width, picture.height), with_masks=False
            )
            points = [float(value) for value in values[1:]]
        except (ValueError, OverflowError) as error:
            raise UserError(f'{file}, line {i}: {error}') from error
        assert found.class_id is not None
        label, box = int(found.class_id[0]), found.xyxy[0].tolist()
        if not 0 <= label < number:
            raise UserError(
                f'{file}, line {i}: class {label}, but the names of data.yaml go from '
                f'0 to {number - 1}'
            )
        outline = None
        if polygon:
            outline = [
                [value * (picture.width, picture.height)[j % 2] for j, value in enumerate(points)]
            ]
            problem = coco.outline_problem(outline, picture.width, picture.height)
            if problem:
                raise UserError(f'{file}, line {i} {problem}')
        things.append(Thing(label, tuple(box), outline))
    return things
