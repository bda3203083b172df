"""Fields of COCO files as tools write them: what is known is completed, the rest is a defect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.formats.findings import Findings, Kind

# The fields that cannot be computed from others.
NEEDED = {
    'images': ['id', 'file_name'],
    'annotations': ['image_id', 'category_id', 'bbox'],
    'categories': ['id', 'name'],
}


class Dropped(NamedTuple):
    """An annotation that cannot be read.

    Attributes:
        image_id: of the image that it belongs to; None if it does not say so.
        text: what is wrong with it, and where.
    """

    image_id: int | None
    text: str


def load(path: Path, findings: Findings) -> tuple[dict[str, Any], list[Dropped]]:
    """Read a COCO file: its lists, with all fields in `NEEDED`, and the annotations without them.

    Sizes of images, areas and ids of annotations may be absent; numbers may be floats, names may
    have blanks around them, paths may be those of Windows. What is assumed is counted.

    Raises:
        UserError: it is not JSON, is no COCO file, or two images or categories share an id.
    """
    content = coco.parse(path)
    if isinstance(content, dict):
        for key in ('images', 'annotations'):
            values = content.get(key)
            if isinstance(values, dict) and values and _are_dicts(values):
                content[key] = list(values.values())
    coco.check_lists(path, content)
    _complete(path, content, findings)
    dropped = []
    for key, fields in NEEDED.items():
        wrong = dict(coco.field_problems(content[key], key, fields))
        if wrong and (key == 'categories' or len(wrong) == len(content[key])):
            index, text = next(iter(wrong.items()))
            all_of = f' (as in all {len(wrong)})' if key != 'categories' and wrong else ''
            raise UserError(f'{path}: {key}[{index}]{text}{all_of if len(wrong) > 1 else ""}')
        for index, text in wrong.items():
            text = f'{path}: {key}[{index}]{text}'
            if key == 'annotations':
                dropped.append(Dropped(_image_id(content[key][index]), text))
            else:
                findings.add(Kind.ANNOTATION, text)
        content[key] = [item for i, item in enumerate(content[key]) if i not in wrong]
    if not content['categories']:
        raise UserError(f'{path} has no categories')
    coco.check_unique(path, content, 'images')
    coco.check_unique(path, content, 'categories')
    return content, dropped


def _image_id(annotation: Any) -> int | None:
    value = annotation.get('image_id') if isinstance(annotation, dict) else None
    return value if type(value) is int else None


def _are_dicts(values: dict[str, Any]) -> bool:
    return all(isinstance(value, dict) for value in values.values())


def _complete(path: Path, content: dict[str, Any], findings: Findings) -> None:
    """Convert and compute what is known."""
    for image in _dicts(content['images']):
        _to_whole(image, 'id')
        if isinstance(image.get('file_name'), str):
            image['file_name'] = image['file_name'].replace('\\', '/').removeprefix('./')
    for category in _dicts(content['categories']):
        _to_whole(category, 'id')
        if type(category.get('name')) is int:
            category['name'] = str(category['name'])
        if isinstance(category.get('name'), str):
            category['name'] = category['name'].strip()
    for i, annotation in enumerate(_dicts(content['annotations'])):
        for field in ('id', 'image_id', 'category_id'):
            _to_whole(annotation, field)
        segmentation = annotation.get('segmentation')
        if isinstance(segmentation, list) and segmentation and _is_number(segmentation[0]):
            segmentation = annotation['segmentation'] = [segmentation]
        if not annotation.get('bbox') and segmentation:
            box = _box_of(segmentation)
            if box:
                annotation['bbox'] = box
                findings.assume('annotations have no box: it is computed', f'{path}: {i}')
        area = annotation.get('area')
        if not coco.FIELDS['annotations']['area'][0](area):
            annotation['area'] = 0  # of the segmentation or box, when it is written
            findings.assume(
                'annotations have no usable area: it is computed', f'{path}: annotations[{i}]'
            )
    ids = [annotation.get('id') for annotation in _dicts(content['annotations'])]
    numbers = Counter(i for i in ids if type(i) is int)
    if len(numbers) < len(ids):
        findings.assume(
            'files have annotations without an id of their own: they get new ones', path
        )
        for i, annotation in enumerate(_dicts(content['annotations']), 1):
            annotation['id'] = i


def _dicts(items: list[Any]) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < coco.MAX_NUMBER


def _to_whole(item: dict[str, Any], field: str) -> None:
    """Turn 1.0 into 1."""
    value = item.get(field)
    if type(value) is float and value.is_integer() and abs(value) < coco.MAX_NUMBER:
        item[field] = int(value)


def _box_of(segmentation: Any) -> list[float] | None:
    """x, y, width, height of a well-formed segmentation."""
    if coco.segmentation_problem(segmentation, math.inf, math.inf):
        return None
    if isinstance(segmentation, dict):
        height, width = segmentation['size']
        if coco.segmentation_problem(segmentation, width, height):
            return None
        return [float(v) for v in rle.toBbox(coco.encode_mask(segmentation, width, height))]
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def stated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height that a file states for an image; None if it states none."""
    sides = []
    for field in ('width', 'height'):
        value = image.get(field)
        try:
            number = float(value) if isinstance(value, (int, float, str)) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not 0 < number <= coco.MAX_SIDE:
            return None
        sides.append(int(number))
    return sides[0], sides[1]
