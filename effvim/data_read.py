"""Reading COCO JSON and Pascal VOC XML; no code in them is run, no entity expanded.

What an element of VOC means is `supervision`'s to say; it reads polygons as masks of pixels, which
are therefore taken out. COCO's JSON is read by effvim/coco.py, which keeps every id, crowd and
outline and says which entry is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException, ElementTree
from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

from backbone.errors import UserError

from . import coco, data_masks, data_yolo
from .data_set import DataSet, Picture, Thing, picture_of, stems, walk

LAYOUTS = (
    'data.yaml (YOLO), Annotations/*.xml and JPEGImages/ (Pascal VOC), annotations/*.json (COCO), '
    'or images/, masks/*.png and classes.txt')


def read(source: Path) -> DataSet:
    """The data set in a folder, or the one that a data.yaml describes.

    Raises:
        UserError: it is none, or something in it cannot be read; names file and line.
    """
    if not source.exists():
        raise UserError(f'{source} not found: name the folder of a data set: {LAYOUTS}')
    if source.suffix in ('.yaml', '.yml'):
        return data_yolo.read(source)
    if (source / 'data.yaml').is_file():
        return data_yolo.read(source / 'data.yaml')
    if (source / 'Annotations').is_dir() and any((source / 'Annotations').rglob('*.xml')):
        return _voc(source)
    files = sorted((source / 'annotations').glob('*.json'))
    if files:
        return _coco(source, files)
    if data_masks.folder_of(source):
        return data_masks.read(source)
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
        pictures[image['id']] = picture_of(file, name)
        _check_size(pictures[image['id']], (image['width'], image['height']), path)
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


def _check_size(picture: Picture, said: tuple[int, int], path: Path) -> None:
    if said != (picture.width, picture.height):
        raise UserError(f'{picture.path} has {picture.width} × {picture.height} pixels, {path} '
                        f'says {said[0]} × {said[1]}: are they of one picture?')


def _voc(root: Path) -> DataSet:
    folder, images = root / 'Annotations', root / 'JPEGImages'
    pictures = [picture_of(file, file.relative_to(images).as_posix()) for file in walk(images)]
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
    alone = len(by_stem) - len(named)
    notes = [f'{alone} of {len(by_stem)} pictures have no annotation file: they count as pictures '
             f'without objects'] * bool(alone)
    parts: dict[str, list[Picture]] = {}
    for part in ('train', 'val', 'test'):
        listed = _voc_list(root / f'ImageSets/Main/{part}.txt', by_stem, images)
        if listed is not None:
            parts[part] = listed
    left = len(pictures) - sum(map(len, parts.values()))
    if parts and left > 0:
        notes.append(f'{left} of {len(pictures)} pictures are in no list of {root / "ImageSets"}: '
                     f'they are left out')
    return DataSet(root, classes, parts or {'all': pictures}, tuple(notes))


def _voc_list(path: Path, by_stem: Mapping[str, Picture], images: Path) -> list[Picture] | None:
    """Pictures that a list of ImageSets/Main names, None if there is no such list."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text('utf-8').split('\n')
    except ValueError as error:
        raise UserError(f'{path} is not text: {error}') from error
    wanted = [re.sub(r'\s+-?[01]$', '', line).strip() for line in lines if line.strip()]
    for stem, count in Counter(wanted).items():
        if stem not in by_stem:
            raise UserError(f'{path} names {stem}, which {images} has not')
        if count > 1:
            raise UserError(f'{path} names {stem} {count} times: once is right')
    return [by_stem[stem] for stem in wanted]


def _voc_file(file: Path, picture: Picture) -> list[tuple[str, Any]]:
    """Names and boxes."""
    try:
        tree = ElementTree.parse(file, forbid_dtd=True).getroot()
        for thing in tree.iter('object'):
            for polygon in thing.findall('polygon'):
                thing.remove(polygon)  # would become a mask of the picture's size
        width, height = (int(tree.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
        found, classes = detections_from_xml_obj(tree, [], (picture.width, picture.height))
    except DefusedXmlException as error:
        raise UserError(f'{file} declares a document type or entities, which annotations have no '
                        f'use for: {type(error).__name__}') from error
    except (OSError, ValueError, RecursionError, ElementTree.ParseError, LookupError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    if width or height:  # some write 0 where they do not know it
        _check_size(picture, (width, height), file)
    assert found.class_id is not None
    return [(classes[label], box) for label, box in zip(found.class_id, found.xyxy.tolist())]
