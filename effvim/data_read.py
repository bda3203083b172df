"""Reading COCO JSON, YOLO txt and Pascal VOC XML; no code in them is run, no entity expanded.

What a line or an element means is `supervision`'s to say. It reads polygons as masks of pixels and
drops a seventh number in silence: outlines and counts are taken here. COCO's JSON is read by
effvim/coco.py, which keeps every id, crowd and outline and says which entry is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from defusedxml import DefusedXmlException, ElementTree
from supervision.dataset.formats.pascal_voc import detections_from_xml_obj
from supervision.dataset.formats.yolo import yolo_annotations_to_detections

from backbone.errors import UserError

from . import coco
from .ade import size_of
from .data_set import DataSet, Picture, Thing, stems, walk

LAYOUTS = (
    'data.yaml (YOLO), Annotations/*.xml and JPEGImages/ (Pascal VOC), or annotations/*.json '
    '(COCO)')


def read(source: Path) -> DataSet:
    """The data set in a folder, or the one that a data.yaml describes.

    Raises:
        UserError: it is none, or something in it cannot be read; names file and line.
    """
    if not source.exists():
        raise UserError(f'{source} not found: name the folder of a data set: {LAYOUTS}')
    if source.suffix in ('.yaml', '.yml'):
        return _yolo(source)
    if (source / 'data.yaml').is_file():
        return _yolo(source / 'data.yaml')
    if (source / 'Annotations').is_dir() and any((source / 'Annotations').rglob('*.xml')):
        return _voc(source)
    files = sorted((source / 'annotations').glob('*.json'))
    if files:
        return _coco(source, files)
    raise UserError(f'{source} is no data set that is known here: expected is {LAYOUTS}')


def _coco(root: Path, files: Sequence[Path]) -> DataSet:
    parts: dict[str, list[Picture]] = {}
    classes: tuple[str, ...] = ()
    for path in files:
        name = path.stem.removeprefix('instances_')
        content = coco.read_annotations(path, root)
        own = tuple(category['name'] for category in content['categories'])
        if classes and own != classes:
            raise UserError(f'{path} and {files[0]} do not list the same categories in the same '
                            f'order')
        classes = own
        part = name.removesuffix('2017')
        folder = next((f for f in (root / name, root / 'images' / name, root / 'images')
                       if f.is_dir()), root)
        parts[part] = _coco_part(path, folder, content)
    return DataSet(root, classes, parts)


def _coco_part(path: Path, folder: Path, content: dict[str, Any]) -> list[Picture]:
    label = {category['id']: i for i, category in enumerate(content['categories'])}
    pictures = {}
    for image in content['images']:
        name = image['file_name']
        if Path(name).is_absolute() or '..' in Path(name).parts or '\0' in name:
            raise UserError(f'{path}: picture {name!r} is not below {folder}')
        file = folder / name
        if not file.is_file():
            raise UserError(f'{path}: picture {file} not found')
        size = size_of(file)
        if size != (image['width'], image['height']):
            raise UserError(f'{file} has {size[0]} × {size[1]} pixels, {path} says '
                            f'{image["width"]} × {image["height"]}')
        pictures[image['id']] = Picture(file, name, *size, [])
    for entry in content['annotations']:
        if entry['image_id'] not in pictures or entry['category_id'] not in label:
            raise UserError(f'{path}: annotation {entry["id"]} is of image {entry["image_id"]} and '
                            f'category {entry["category_id"]}, which the file does not list')
        x, y, w, h = entry['bbox']
        picture, outline = pictures[entry['image_id']], entry.get('segmentation') or None
        problem = outline and coco.outline_problem(outline, picture.width, picture.height)
        if problem:
            raise UserError(f'{path}: the mask of annotation {entry["id"]} {problem}')
        picture.things.append(Thing(label[entry['category_id']], (x, y, x + w, y + h), outline,
                                    bool(entry.get('iscrowd')), entry['area']))
    return list(pictures.values())


def _yolo(path: Path) -> DataSet:
    try:
        content = yaml.safe_load(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f'{path} is not YAML: {error}') from error
    names = content.get('names') if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f'{path}: names must be a list of class names, or give each number from 0 '
                        f'one; a name like yes or 1 needs quotes')
    base = content.get('path') or '.'
    if not isinstance(base, str):
        raise UserError(f'{path}: path must be the name of a folder')
    parts = {}
    for part in ('train', 'val', 'test'):
        where = content.get(part)
        if where is None:
            continue
        if not isinstance(where, str) or where.endswith('.txt'):
            raise UserError(f'{path}: {part} must be one folder of pictures, got {where!r:.99}')
        parts[part] = _yolo_part(path.parent / base / where, len(names), path)
    if not parts:
        raise UserError(f'{path} names no folder of pictures: it needs train, val or test')
    return DataSet(path, tuple(names), parts)


def _yolo_part(folder: Path, number: int, path: Path) -> list[Picture]:
    folder = folder.resolve()
    if 'images' not in folder.parts:
        raise UserError(f'{path}: {folder} has no folder images in its path, labels are looked for '
                        f'in the folder labels beside that one')
    at = len(folder.parts) - 1 - folder.parts[::-1].index('images')
    labels = Path(*folder.parts[:at], 'labels', *folder.parts[at + 1:])
    pictures = [Picture(file, file.relative_to(folder).as_posix(), *size_of(file), [])
                for file in walk(folder)]
    for stem, picture in stems(pictures, 'label file').items():
        file = labels / f'{stem}.txt'
        if file.is_file():
            picture.things.extend(_yolo_file(file, picture, number))
    lost = {f.relative_to(labels).with_suffix('').as_posix() for f in (
        walk(labels, ['.txt']) if labels.is_dir() else [])} - stems(pictures, 'label file').keys()
    lost.discard('classes')  # labelImg's list of names
    if lost:
        raise UserError(f'{len(lost)} label files in {labels} have no picture in {folder}, e.g. '
                        f'{min(lost)}.txt')
    return pictures


def _yolo_file(file: Path, picture: Picture, number: int) -> list[Thing]:
    try:
        lines = [(i, line) for i, line in enumerate(file.read_text('utf-8').splitlines(), 1)
                 if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f'{file} is not text: {error}') from error
    things = []
    for i, line in lines:
        values = line.split()
        polygon = len(values) > 6 and len(values) % 2 == 1
        if len(values) != 5 and not polygon:
            raise UserError(f'{file}, line {i}: {len(values)} numbers; a box is a class and 4, a '
                            f'polygon a class and at least 3 pairs x, y')
        try:
            found = yolo_annotations_to_detections(
                [line], (picture.width, picture.height), with_masks=False)
            points = [float(value) for value in values[1:]]
        except (ValueError, OverflowError) as error:
            raise UserError(f'{file}, line {i}: {error}') from error
        assert found.class_id is not None
        label, box = int(found.class_id[0]), found.xyxy[0].tolist()
        if not 0 <= label < number:
            raise UserError(f'{file}, line {i}: class {label}, but the names of data.yaml go from '
                            f'0 to {number - 1}')
        outline = None
        if polygon:
            outline = [[value * (picture.width, picture.height)[j % 2]
                        for j, value in enumerate(points)]]
            problem = coco.outline_problem(outline, picture.width, picture.height)
            if problem:
                raise UserError(f'{file}, line {i} {problem}')
        things.append(Thing(label, tuple(box), outline))
    return things


def _voc(root: Path) -> DataSet:
    folder, images = root / 'Annotations', root / 'JPEGImages'
    pictures = [Picture(file, file.relative_to(images).as_posix(), *size_of(file), [])
                for file in walk(images)]
    by_stem = stems(pictures, 'annotation file')
    named: dict[str, list[tuple[str, Any]]] = {}
    for file in walk(folder, ['.xml']):
        stem = file.relative_to(folder).with_suffix('').as_posix()
        if stem not in by_stem:
            raise UserError(f'{file} has no picture {images / stem}.*')
        named[stem] = _voc_file(file, by_stem[stem])
    classes = tuple(sorted({name for found in named.values() for name, _ in found}))
    for stem, found in named.items():
        by_stem[stem].things.extend(Thing(classes.index(name), tuple(box)) for name, box in found)
    parts = {}
    lists = root / 'ImageSets/Main'
    for part in ('train', 'val', 'test'):
        if (lists / f'{part}.txt').is_file():
            stems_of = (lists / f'{part}.txt').read_text('utf-8').split('\n')
            wanted = [re.sub(r'\s+-?[01]$', '', s).strip() for s in stems_of if s.strip()]
            missing = [s for s in wanted if s not in by_stem]
            if missing:
                raise UserError(f'{lists / part}.txt names {missing[0]}, which {images} has not')
            parts[part] = [by_stem[s] for s in wanted]
    return DataSet(root, classes, parts or {'all': pictures})


def _voc_file(file: Path, picture: Picture) -> list[tuple[str, Any]]:
    """Names and boxes."""
    try:
        tree = ElementTree.parse(file, forbid_dtd=True).getroot()
        for thing in tree.iter('object'):
            for polygon in thing.findall('polygon'):
                thing.remove(polygon)  # would become a mask of the picture's size
        found, classes = detections_from_xml_obj(tree, [], (picture.width, picture.height))
    except DefusedXmlException as error:
        raise UserError(f'{file} declares a document type or entities, which annotations have no '
                        f'use for: {type(error).__name__}') from error
    except (OSError, ValueError, RecursionError, ElementTree.ParseError, LookupError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    assert found.class_id is not None
    return [(classes[label], box) for label, box in zip(found.class_id, found.xyxy.tolist())]


