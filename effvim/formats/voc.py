"""Pascal VOC XML: read, without expanding any entity, and written.

Elements are parsed here and not by supervision, whose import takes longer than most conversions.
Polygons are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from defusedxml import DefusedXmlException, ElementTree

from backbone.errors import UserError
from effvim.files import numbered_lines
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    check_size,
    copy_image,
    find_files,
    group_by_split,
    images_by_stem,
    open_image,
)

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def read(root: Path) -> Dataset:
    """Read Annotations/ with JPEGImages/ or images/, or annotations next to their images.

    Raises:
        UserError: a file or an image cannot be read or is wrong.
    """
    folder = image_folder = root
    if (root / 'Annotations').is_dir():
        folder = root / 'Annotations'
        image_folder = next(
            (root / name for name in ('JPEGImages', 'images') if (root / name).is_dir()),
            root / 'JPEGImages',
        )
    images = [
        open_image(file, file.relative_to(image_folder).as_posix())
        for file in find_files(image_folder)
    ]
    by_stem = images_by_stem(images, 'annotation file')
    objects: dict[str, list[tuple[str, Any]]] = {}
    for file in find_files(folder, ['.xml']):
        stem = file.relative_to(folder).with_suffix('').as_posix()
        if stem not in by_stem:
            raise UserError(f'{file} has no image {image_folder / stem}.*')
        objects[stem] = _read_objects(file, by_stem[stem])
    classes = tuple(sorted({name for own in objects.values() for name, _ in own}))
    for stem, own in objects.items():
        by_stem[stem].instances.extend(Instance(classes.index(name), box) for name, box in own)
    notes = []
    without = len(by_stem) - len(objects)
    if without:
        notes.append(
            f'{without} of {len(by_stem)} images have no annotation file: they count as images '
            f'without objects'
        )
    lists = {split: root / f'ImageSets/Main/{split}.txt' for split in ('train', 'val', 'test')}
    splits = {split: _listed(path, by_stem) for split, path in lists.items() if path.is_file()}
    unlisted = len(images) - sum(map(len, splits.values()))
    if splits and unlisted > 0:
        notes.append(
            f'{unlisted} of {len(images)} images are in no list of {root / "ImageSets"}: '
            f'they are ignored'
        )
    return Dataset(root, classes, splits or group_by_split(images, root), tuple(notes))


def _listed(path: Path, by_stem: Mapping[str, AnnotatedImage]) -> list[AnnotatedImage]:
    """The images in a list of ImageSets/Main; a class's list has -1, 0 or 1 behind each."""
    images = []
    for line in numbered_lines(path).values():
        stem = line if line in by_stem else re.sub(r'\s+-?[01]$', '', line).strip()
        if stem not in by_stem:
            raise UserError(f'{path} names {stem}, of which there is no image')
        images.append(by_stem[stem])
    return images


def _read_objects(
    file: Path, image: AnnotatedImage
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Name and box of each object."""
    try:
        root = ElementTree.parse(file, forbid_dtd=True).getroot()
        width, height = (int(root.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
        objects = [(_text(item, 'name'), _read_box(item)) for item in root.findall('object')]
    except DefusedXmlException as error:
        raise UserError(
            f'{file} declares a document type or entities, which annotations do not need: '
            f'{type(error).__name__}'
        ) from error
    except (ValueError, RecursionError, ElementTree.ParseError, LookupError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    if width or height:  # some tools write 0
        check_size(image, (width, height), file)
    return objects


def _text(element: Element, path: str) -> str:
    text = (element.findtext(path) or '').strip()
    if not text:
        raise ValueError(f'an {element.tag} has no {path}')
    return text


def _read_box(item: Element) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2; VOC counts pixels from 1, and its largest are those inside the box."""
    values = [float(_text(item, f'bndbox/{corner}')) for corner in CORNERS]
    if not all(map(math.isfinite, values)):
        raise ValueError('a corner of a box is not finite')
    x1, y1, x2, y2 = values
    return min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2), max(y1, y2)


def write(dataset: Dataset, directory: Path) -> None:
    """Write Annotations/, JPEGImages/, and ImageSets/Main/ if there are splits.

    Raises:
        UserError: XML cannot hold a name.
    """
    by_stem = images_by_stem(dataset.images(), 'annotation file')
    for stem, image in by_stem.items():
        copy_image(image, directory / 'JPEGImages')
        path = directory / 'Annotations' / f'{stem}.xml'
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = tostring(_annotation(image, dataset.classes), 'unicode') + '\n'
            ElementTree.fromstring(text)  # control characters are written, but cannot be read
            path.write_text(text, 'utf-8')
        except (ElementTree.ParseError, ValueError) as error:
            raise UserError(
                f'XML cannot hold the name of {image.path!r} or of one of its classes: {error}'
            ) from error
    lists = directory / 'ImageSets/Main'
    lists.mkdir(parents=True)
    stems = iter(by_stem)
    for split, images in dataset.splits.items():
        if split != 'all':
            text = ''.join(f'{next(stems)}\n' for _ in images)
            (lists / f'{split}.txt').write_text(text, 'utf-8')


def _annotation(image: AnnotatedImage, classes: tuple[str, ...]) -> Element:
    """The XML of an image. Boxes are whole pixels, never less than one."""
    root = Element('annotation')
    SubElement(root, 'filename').text = image.name
    size = SubElement(root, 'size')
    for name, value in (('width', image.width), ('height', image.height), ('depth', 3)):
        SubElement(size, name).text = str(value)
    SubElement(root, 'segmented').text = '0'
    for instance in image.instances:
        if instance.crowd:
            continue
        item = SubElement(root, 'object')
        SubElement(item, 'name').text = classes[instance.label]
        x1, y1, x2, y2 = instance.box
        x1, y1 = round(x1 + 1), round(y1 + 1)
        corners = x1, y1, max(round(x2), x1), max(round(y2), y1)
        box = SubElement(item, 'bndbox')
        for name, value in zip(CORNERS, corners):
            SubElement(box, name).text = str(value)
    indent(root)
    return root
