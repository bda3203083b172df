"""Writing COCO JSON, YOLO txt, Pascal VOC XML and masks, each with its pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import yaml
from pycocotools import mask as rle
from supervision import Detections
from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc

from backbone.errors import UserError
from effvim.files import new_directory
from effvim.formats import masks
from effvim.formats.dataset import DataSet, Picture, Thing, pixels, stems


def write(data: DataSet, target: Path, kind: str) -> list[str]:
    """`data` in a new folder; returns what the format cannot hold and was left out.

    Raises:
        UserError: the folder exists or cannot be written, or names that the format would confuse.
    """
    masks = any(picture.mask for picture in data.pictures())
    if masks != (kind == 'masks'):
        raise UserError(
            f'--to {kind}: masks hold no objects, and boxes no masks: this source has '
            f'{"masks, which stay masks" if masks else "boxes"}'
        )
    with new_directory(target) as folder:
        WRITERS[kind](data, folder)
    if kind in ('coco', 'masks'):
        return []
    things = [t for pictures in data.parts.values() for p in pictures for t in p.things]
    lost = {
        'crowds': sum(t.crowd for t in things),
        'outlines': sum(t.outline is not None and not t.crowd for t in things),
    }
    return [f'{count} {what}' for what, count in lost.items() if count]


def _coco(data: DataSet, folder: Path) -> None:
    categories = [{'id': i, 'name': name} for i, name in enumerate(data.classes, 1)]
    for part, pictures in data.parts.items():
        name = f'{part}2017'
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for picture in pictures:
            _copy(picture, folder / name)
            images.append(
                {
                    'id': len(images) + 1,
                    'file_name': picture.name,
                    'width': picture.width,
                    'height': picture.height,
                }
            )
            for thing in picture.things:
                x1, y1, x2, y2 = thing.box
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': len(images),
                        'category_id': thing.label + 1,
                        'bbox': [x1, y1, x2 - x1, y2 - y1],
                        'area': _area(thing, picture),
                        'iscrowd': int(thing.crowd),
                        **({'segmentation': thing.outline} if thing.outline else {}),
                    }
                )
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        path = folder / 'annotations' / f'instances_{name}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content) + '\n')


def _area(thing: Thing, picture: Picture) -> float:
    """In pixels, as COCO counts it: of the outline, where there is one."""
    if thing.area is not None:
        return thing.area
    if thing.outline:
        return float(rle.area(pixels(thing.outline, picture.width, picture.height)))
    x1, y1, x2, y2 = thing.box
    return (x2 - x1) * (y2 - y1)


def _yolo(data: DataSet, folder: Path) -> None:
    for part, pictures in data.parts.items():
        for stem, picture in stems(pictures, 'label file').items():
            _copy(picture, folder / 'images' / part)
            path = folder / 'labels' / part / f'{stem}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            # supervision writes five decimals: half a pixel off in a picture of 50,000
            path.write_text(
                ''.join(
                    _yolo_line(t.label, t.box, picture) + '\n'
                    for t in picture.things
                    if not t.crowd
                )
            )
    # a part of its own is what ultralytics calls train
    places = {'train' if part == 'all' else part: f'images/{part}' for part in data.parts}
    text = yaml.safe_dump(
        {**places, 'names': dict(enumerate(data.classes))}, allow_unicode=True, sort_keys=False
    )
    (folder / 'data.yaml').write_text(text, 'utf-8')


def _yolo_line(label: int, box: Sequence[float], picture: Picture) -> str:
    x1, y1, x2, y2 = box
    w, h = picture.width, picture.height
    values = (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h
    return ' '.join([str(label), *(f'{value:.7f}' for value in values)])


def _voc(data: DataSet, folder: Path) -> None:
    merged = data.pictures()
    for stem, picture in stems(merged, 'annotation file').items():
        _copy(picture, folder / 'JPEGImages')
        things = [t for t in picture.things if not t.crowd]
        found = Detections(
            np.array([t.box for t in things]).reshape(-1, 4),
            class_id=np.array([t.label for t in things], int),
        )
        path = folder / 'Annotations' / f'{stem}.xml'
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = detections_to_pascal_voc(
                found, list(data.classes), picture.name, (picture.height, picture.width, 3)
            )
            path.write_text(text, 'utf-8')
        except (ExpatError, ValueError) as error:
            raise UserError(
                f'XML cannot hold the name of {picture.path!r} or of one of its classes: {error}'
            ) from error
    lists = folder / 'ImageSets/Main'
    lists.mkdir(parents=True)
    rest = iter(stems(merged, 'annotation file'))
    for part, pictures in data.parts.items():
        if part != 'all':
            text = ''.join(f'{next(rest)}\n' for _ in pictures)
            (lists / f'{part}.txt').write_text(text, 'utf-8')


def _copy(picture: Picture, folder: Path) -> None:
    path = folder / picture.name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture.path, path)


WRITERS: dict[str, Callable[[DataSet, Path], None]] = {
    'coco': _coco,
    'yolo': _yolo,
    'voc': _voc,
    'masks': masks.write,
}
