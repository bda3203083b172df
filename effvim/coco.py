"""COCO annotations and pictures: what can be wrong with them, found before mmdet is imported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone.errors import UserError

LAYOUT = (
    'annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/*.jpg, '
    'val2017/*.jpg'
)


def read_annotations(path: Path, root: Path) -> dict[str, Any]:
    """A COCO annotation file.

    Raises:
        UserError: it or `root` is absent, it is not JSON, or it lacks one of COCO's lists.
    """
    if not root.is_dir():
        raise UserError(f'data root {root} not found: expected there {LAYOUT}. Point --data-root '
                        f'to it, or try --mini, which needs no data')
    if not path.is_file() and (root / 'images/training').is_dir():
        raise UserError(f'{root} holds ADE20K, for segmentors, but the config is a detector: '
                        f'expected there {LAYOUT}')
    if not path.is_file():
        raise UserError(f'annotation file {path} not found: expected below {root}: {LAYOUT}')
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f'{path} is not complete JSON ({error}): fetch it again') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'{path} has no list of {key}: it is not a COCO annotation file')
        wanted = {'images': {'id', 'file_name', 'height', 'width'}, 'categories': {'id', 'name'},
                  'annotations': {'id', 'image_id', 'category_id', 'bbox', 'area'}}[key]
        for i, entry in enumerate(content[key]):
            if not isinstance(entry, dict) or not wanted <= entry.keys():
                have = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
                raise UserError(f'{path}: {key}[{i}] needs {sorted(wanted)}, has {have}')
            if key == 'annotations' and not _is_box(entry['bbox']):
                raise UserError(f'{path}: {key}[{i}].bbox must be four numbers x, y, width, '
                                f'height, got {entry["bbox"]!r}')
            if key == 'images' and not isinstance(entry['file_name'], str):
                raise UserError(f'{path}: {key}[{i}].file_name must be text, got '
                                f'{entry["file_name"]!r}')
    if not content['categories']:
        raise UserError(f'{path} has no categories')
    return content


def check(dataset: Any) -> tuple[str, ...]:
    """Check one data set config (CocoDataset) against the disk; returns its classes, in order.

    Raises:
        UserError: as `read_annotations`; no annotation at all, pictures missing, or classes in the
            config that the file does not have.
    """
    root = Path(dataset.data_root)
    path = root / dataset.ann_file
    content = read_annotations(path, root)
    names = [category['name'] for category in content['categories']]
    wanted = (dataset.get('metainfo') or {}).get('classes') or names
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    foreign = [name for name in wanted if name not in names]
    if foreign:
        raise UserError(f'{path} has no category {_some(foreign)}, which the config asks for; it '
                        f'has {_some(names)}')
    ids = {c['id'] for c in content['categories'] if c['name'] in wanted}
    annotated = {a['image_id'] for a in content['annotations'] if a['category_id'] in ids}
    least = (dataset.get('filter_cfg') or {}).get('min_size', 0)
    if not any(i['id'] in annotated and min(i['height'], i['width']) >= least
               for i in content['images']):
        raise UserError(f'{path} has no annotation of {_some(wanted)} in a picture of at least '
                        f'{least} pixels: there is nothing to train on or to measure')
    folder = root / (dataset.data_prefix.get('img') or '')
    _check_pictures(path, folder, [image['file_name'] for image in content['images']])
    if any(step.get('with_mask') for step in dataset.get('pipeline', [])):
        _check_masks(path, content)
    return tuple(name for name in names if name in wanted)


def _check_pictures(path: Path, folder: Path, names: Sequence[str]) -> None:
    present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    missing = [n for n in names if n not in present and not (folder / n).is_file()]
    if missing:
        raise UserError(f'{len(missing)} of {len(names)} images that {path} names are not in '
                        f'{folder}: {", ".join(missing[:5])}{" …" if len(missing) > 5 else ""}')


def _check_masks(path: Path, content: dict[str, Any]) -> None:
    """Every object needs an outline; mmdet would ignore a bad one, or learn an empty mask."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    for annotation in content['annotations']:
        problem = _outline_problem(annotation.get('segmentation'),
                                   *sizes.get(annotation['image_id'], (math.inf, math.inf)))
        if problem:
            raise UserError(f'{path}: the mask of annotation {annotation["id"]} (image '
                            f'{annotation["image_id"]}) {problem}: mend it or take it out')


def _outline_problem(segmentation: Any, width: float, height: float) -> str:
    """What is wrong with polygons [[x1, y1, x2, y2, …], …] or a run-length mask; '' if nothing."""
    if isinstance(segmentation, dict):
        if not isinstance(segmentation.get('counts'), (list, str)):
            return 'is run-length encoded but has no counts'
        size = segmentation.get('size')
        if width < math.inf and size != [height, width]:
            return f'is of size {size}, its image {[height, width]} (height, width)'
        return ''
    if not isinstance(segmentation, list) or not segmentation:
        return 'is missing'
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return 'has a polygon that is not a list of at least three points x, y'
        x, y = polygon[0::2], polygon[1::2]
        if max(x) <= 0 or max(y) <= 0 or min(x) >= width or min(y) >= height:
            return f'has a polygon outside the {width} × {height} pixels of the image'
    return ''


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) and math.isfinite(v) for v in box)


def check_all(loaders: Sequence[Any]) -> tuple[str, ...]:
    """Check the data sets of several loaders; returns the classes, which must agree.

    Raises:
        UserError: as `check`, or two files list the classes in different orders.
    """
    seen: dict[tuple[str, str], tuple[str, ...]] = {}
    for loader in loaders:
        where = (loader.dataset.data_root, loader.dataset.ann_file)
        if where not in seen:
            seen[where] = check(loader.dataset)
    (first, classes), *others = seen.items()
    for where, found in others:
        if found != classes:
            raise UserError(f'{where[1]} and {first[1]} do not list the same categories in the '
                            f'same order: {_some(found)}; {_some(classes)}')
    return classes


def _some(names: Sequence[str], limit: int = 5) -> str:
    rest = f' … ({len(names)})' if len(names) > limit else ''
    return ', '.join(map(repr, names[:limit])) + rest
