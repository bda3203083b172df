"""Reading Pascal VOC XML; no entity is expanded.

What an element means is `supervision`'s to say; it reads polygons as masks of pixels, which are
therefore taken out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException, ElementTree
from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

from backbone.errors import UserError
from effvim.files import numbered_lines
from effvim.formats.dataset import (
    DataSet,
    Picture,
    Thing,
    by_folder,
    check_size,
    picture_of,
    stems,
    walk,
)


def read(root: Path) -> DataSet:
    """Annotations/ with JPEGImages/ or images/, or annotations beside their pictures.

    Raises:
        UserError: a file or a picture cannot be read or is wrong.
    """
    folder = images = root
    if (root / 'Annotations').is_dir():
        folder = root / 'Annotations'
        images = next(
            (root / name for name in ('JPEGImages', 'images') if (root / name).is_dir()),
            root / 'JPEGImages',
        )
    pictures = [picture_of(file, file.relative_to(images).as_posix()) for file in walk(images)]
    by_stem = stems(pictures, 'annotation file')
    named: dict[str, list[tuple[str, Any]]] = {}
    for file in walk(folder, ['.xml']):
        stem = file.relative_to(folder).with_suffix('').as_posix()
        if stem not in by_stem:
            raise UserError(f'{file} has no picture {images / stem}.*')
        named[stem] = _objects(file, by_stem[stem])
    classes = tuple(sorted({name for found in named.values() for name, _ in found}))
    for stem, found in named.items():
        by_stem[stem].things.extend(Thing(classes.index(name), tuple(box)) for name, box in found)
    alone = len(by_stem) - len(named)
    notes = [
        f'{alone} of {len(by_stem)} pictures have no annotation file: they count as pictures '
        f'without objects'
    ] * bool(alone)
    lists = {part: root / f'ImageSets/Main/{part}.txt' for part in ('train', 'val', 'test')}
    parts = {part: _listed(path, by_stem) for part, path in lists.items() if path.is_file()}
    left = len(pictures) - sum(map(len, parts.values()))
    if parts and left > 0:
        notes.append(
            f'{left} of {len(pictures)} pictures are in no list of {root / "ImageSets"}: '
            f'they are left out'
        )
    return DataSet(root, classes, parts or by_folder(pictures, root), tuple(notes))


def _listed(path: Path, by_stem: Mapping[str, Picture]) -> list[Picture]:
    """Pictures that a list of ImageSets/Main names; a class's list has -1, 0 or 1 behind them."""
    found = []
    for line in numbered_lines(path).values():
        stem = line if line in by_stem else re.sub(r'\s+-?[01]$', '', line).strip()
        if stem not in by_stem:
            raise UserError(f'{path} names {stem}, of which there is no picture')
        found.append(by_stem[stem])
    return found


def _objects(file: Path, picture: Picture) -> list[tuple[str, Any]]:
    """Names and boxes."""
    try:
        tree = ElementTree.parse(file, forbid_dtd=True).getroot()
        for thing in tree.iter('object'):
            for polygon in thing.findall('polygon'):
                thing.remove(polygon)  # would become a mask of the picture's size
        width, height = (int(tree.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
        found, classes = detections_from_xml_obj(tree, [], (picture.width, picture.height))
    except DefusedXmlException as error:
        raise UserError(
            f'{file} declares a document type or entities, which annotations have no '
            f'use for: {type(error).__name__}'
        ) from error
    except (ValueError, RecursionError, ElementTree.ParseError, LookupError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    if width or height:  # some write 0 where they do not know it
        check_size(picture, (width, height), file)
    assert found.class_id is not None
    return [(classes[label], box) for label, box in zip(found.class_id, found.xyxy.tolist())]
