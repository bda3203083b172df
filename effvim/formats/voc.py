"""Pascal VOC XML: read, without expanding any entity, and written.

Elements are parsed here and not by supervision, whose import takes longer than most conversions.
Polygons are not read.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from defusedxml import DefusedXmlException, ElementTree

from backbone.errors import UserError
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    check_size,
    copy_image,
    group_by_split,
    images_by_stem,
)
from effvim.formats.findings import Findings, Kind
from effvim.formats.opening import find_images, open_images
from effvim.formats.places import (
    IMAGE_FOLDERS,
    children,
    listed_splits,
    split_folders,
    visible_files,
    without_folders,
)
from effvim.images import UNREAD_SUFFIXES, find_files

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')

# Directories of annotations, in lower case.
ANNOTATIONS = ('annotations', 'annotation', 'xmls', 'xml', 'labels', 'label', 'annots', 'ann')


def find_folder(root: Path) -> Path | None:
    """The directory of the annotations; None if this is no such dataset.

    Next to their images they may lie in directories named after splits.
    """
    for folder in children(root, ANNOTATIONS):
        if find_files(folder, ['.xml']):
            return folder
    splits = split_folders(root)
    if any(visible_files(folder, ['.xml']) for folder in (root, *splits)):
        return root
    nested = any(find_files(folder, ['.xml']) and find_files(folder) for folder in splits)
    return root if nested else None


def read(root: Path, folder: Path, findings: Findings) -> Dataset:
    """Read annotations with their images, in a directory of their own or next to them.

    Args:
        root: the dataset.
        folder: that `find_folder` has found.
        findings: receives what is wrong with images and annotations.

    Raises:
        UserError: there are no images, or the annotations are of another format.
    """
    own = next((f for f in children(root, IMAGE_FOLDERS) if f != folder), root)
    image_folder = own if folder != root or find_files(own) else root
    files = find_images(image_folder, findings)
    images = [
        image._replace(name=_plain(image.path, image_folder))
        for image in open_images(files, image_folder, findings)
    ]
    by_stem = images_by_stem(images, 'annotation file')
    # also of the images that cannot be decoded, or are of kinds that are not read
    known = {
        _stem(file, image_folder) for file in (*files, *find_files(image_folder, UNREAD_SUFFIXES))
    }
    objects: dict[str, list[tuple[str, Instance]]] = {}
    for file in find_files(folder, ['.xml']):
        stem = _stem(file, folder)
        with findings.collect(Kind.ANNOTATION, by_stem[stem].path if stem in by_stem else None):
            annotation = _parse(file)
            stem = stem if stem in known else _stated_stem(annotation, known) or stem
            if stem in by_stem:
                own_objects = _read_objects(file, annotation, by_stem[stem], findings)
                objects.setdefault(stem, []).extend(own_objects)
            elif stem not in known:
                findings.add(Kind.NO_IMAGE, f'{file} has no image {image_folder / stem}.*: add it')
    classes = tuple(sorted({name for own in objects.values() for name, _ in own}))
    for stem, pairs in objects.items():
        by_stem[stem].instances.extend(i._replace(label=classes.index(n)) for n, i in pairs)
    without = len(by_stem) - len(objects)
    if without:
        findings.note(
            f'{without} of {len(by_stem)} images have no annotation file: they count as images '
            f'without objects'
        )
    splits, notes = listed_splits(root, by_stem)
    for note in notes:
        findings.note(note)
    return Dataset(root, classes, splits or group_by_split(images, root))


def _plain(file: Path, top: Path) -> str:
    """The path below `top`, without directories that only say what they hold."""
    return without_folders(file.relative_to(top).as_posix(), (*IMAGE_FOLDERS, *ANNOTATIONS))


def _stem(file: Path, top: Path) -> str:
    return os.path.splitext(_plain(file, top))[0]


def _stated_stem(annotation: Element, stems: set[str]) -> str | None:
    """The name without suffix of the image that an annotation names, if there is such an image."""
    name = (annotation.findtext('filename') or '').strip().replace('\\', '/')
    for candidate in (name, os.path.splitext(name)[0], name.rpartition('/')[2]):
        for stem in (candidate, os.path.splitext(candidate)[0]):
            if stem in stems:
                return stem
    return None


def _parse(file: Path) -> Element:
    try:
        root = ElementTree.parse(file, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise UserError(
            f'{file} declares a document type or entities, which annotations do not need: '
            f'{type(error).__name__}'
        ) from error
    except (ValueError, RecursionError, ElementTree.ParseError, LookupError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    if root.tag == 'annotations' and root.find('image') is not None:
        raise UserError(f"{file} is in CVAT's own format: export the task as COCO 1.0 instead")
    return root


def _read_objects(
    file: Path, root: Element, image: AnnotatedImage, findings: Findings
) -> list[tuple[str, Instance]]:
    """Class name and instance of each object."""
    objects = []
    for item in root.findall('object'):
        with findings.collect(Kind.ANNOTATION, image.path):
            try:
                name, box = _text(item, 'name'), _read_box(item)
            except ValueError as error:
                raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
            objects.append((name, Instance(0, box, origin=str(file))))
    size = [root.findtext(f'size/{side}') or '0' for side in ('width', 'height')]
    try:
        width, height = (int(float(side)) for side in size)
    except (ValueError, OverflowError) as error:
        raise UserError(f'{file} is not a Pascal VOC annotation: {error}') from error
    if width > 0 and height > 0:  # some tools write 0
        with findings.collect(Kind.SIZE, image.path):
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
