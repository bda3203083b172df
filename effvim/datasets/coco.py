"""COCO annotations and images: find what is wrong with them before mmdet is imported."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from backbone.errors import UserError
from effvim import console
from effvim.datasets.garbage_collection import garbage_collection_paused

LAYOUT = (
    'annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/*.jpg, '
    'val2017/*.jpg'
)

MAX_NUMBER = 2**53  # whole numbers below it survive as floats

MAX_SIDE = 2**20  # pixels; OpenCV decodes no longer side


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < MAX_NUMBER


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_NUMBER  # False for NaN


def _is_length(value: Any) -> bool:
    return _is_number(value) and 0 < value <= MAX_SIDE


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


# The fields that mmdet needs in each of COCO's lists: their check, and what it accepts.
FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    'images': {
        'id': (_is_whole, 'a whole number'),
        'file_name': (_is_text, 'text'),
        'height': (_is_length, f'pixels, 1 to {MAX_SIDE}'),
        'width': (_is_length, f'pixels, 1 to {MAX_SIDE}'),
    },
    'annotations': {
        'id': (_is_whole, 'a whole number'),
        'image_id': (_is_whole, 'a whole number'),
        'category_id': (_is_whole, 'a whole number'),
        'bbox': (_is_box, 'four numbers x, y, width, height'),
        'area': (_is_number, 'a number'),
    },
    'categories': {'id': (_is_whole, 'a whole number'), 'name': (_is_text, 'text')},
}


def read_annotations(path: Path, root: Path) -> dict[str, Any]:
    """Read a COCO annotation file and check every field that mmdet needs.

    Args:
        path: the file.
        root: the dataset's directory, for messages.

    Raises:
        UserError: it or `root` is absent, it is not JSON, it lacks one of COCO's lists or fields,
            or an id occurs twice.
    """
    if not root.is_dir():
        raise UserError(
            f'data root {root} not found: expected there {LAYOUT}. Point --data-root '
            f'to it, or try --mini, which needs no data'
        )
    if not path.is_file() and (root / 'images/training').is_dir():
        raise UserError(
            f'{root} holds ADE20K, for segmentors, but the config is a detector: '
            f'expected there {LAYOUT}'
        )
    if not path.is_file():
        raise UserError(f'annotation file {path} not found: expected below {root}: {LAYOUT}')
    with garbage_collection_paused():
        content = parse(path)
        _check_fields(path, content)
    return content


def parse(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path} is not complete JSON ({error}): download it again') from error


# Fields that `effvim data` computes where they are absent.
COMPUTED = {'images': {'width', 'height'}, 'annotations': {'id', 'area'}, 'categories': set[str]()}


def _check_fields(path: Path, content: Any) -> None:
    check_lists(path, content)
    for key in FIELDS:
        problems = list(field_problems(content[key], key))
        if problems:
            index, text = problems[0]
            more = f' ({len(problems)} of {len(content[key])} are wrong)' if problems[1:] else ''
            computed = FIELDS[key].keys() - COMPUTED[key]
            known = not any(field_problems(content[key], key, sorted(computed)))
            remedy = '; effvim data convert computes what is missing' if known else ''
            raise UserError(f'{path}: {key}[{index}]{text}{more}{remedy}')
        check_unique(path, content, key)
    if not content['categories']:
        raise UserError(f'{path} has no categories')


def check_lists(path: Path, content: Any) -> None:
    """Check that a file has COCO's lists.

    Raises:
        UserError: it has not.
    """
    for key in FIELDS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'{path} has no list of {key}: it is not a COCO annotation file')


def field_problems(
    items: Sequence[Any], key: str, fields: Sequence[str] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the index of each item of one of COCO's lists that is wrong, and why.

    Args:
        items: the list.
        key: its key in `FIELDS`; the reason continues "key[index]".
        fields: those to check (default: all of `FIELDS`).
    """
    checks = {name: FIELDS[key][name] for name in fields or FIELDS[key]}
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            yield i, f' needs {", ".join(sorted(checks))}, but is no object: {item!r:.99}'
        elif not checks.keys() <= item.keys():
            absent = ', '.join(sorted(checks.keys() - item.keys()))
            yield i, f' needs {absent}, has {", ".join(map(str, sorted(item)))}'
        else:
            for field, (is_valid, expected) in checks.items():
                if not is_valid(item[field]):
                    yield i, f'.{field} must be {expected}, got {item[field]!r:.99}'
                    break


def check_unique(path: Path, content: Any, key: str) -> None:
    """Check that no two items of one of COCO's lists share an id.

    Raises:
        UserError: two do.
    """
    ids = [item['id'] for item in content[key]]
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise UserError(
            f'{path}: id {twice} occurs more than once in {key}: all but one of them would be '
            f'lost; give each an id of its own'
        )


def check_all(
    loaders: Sequence[Any], parsed: dict[Path, dict[str, Any]] | None = None
) -> tuple[str, ...]:
    """Check the datasets of several loaders; return the classes, which must agree.

    Args:
        loaders: configs of data loaders.
        parsed: see `check`.

    Raises:
        UserError: as `check`, or two files list the classes in different orders.
    """
    seen: dict[tuple[str, str], tuple[str, ...]] = {}
    for loader in loaders:
        where = (loader.dataset.get('data_root'), loader.dataset.get('ann_file'))
        if where not in seen:
            seen[where] = check(loader.dataset, parsed)
    (first, classes), *others = seen.items()
    for where, other in others:
        if other != classes:
            raise UserError(
                f'{where[1]} and {first[1]} do not list the same categories in the '
                f'same order: {some(map(repr, other))}; {some(map(repr, classes))}'
            )
    return classes


def check(dataset: Any, parsed: dict[Path, dict[str, Any]] | None = None) -> tuple[str, ...]:
    """Check one dataset config (CocoDataset) against the disk; return its classes, in order.

    Args:
        dataset: the config.
        parsed: what `read_annotations` has returned in this run, by resolved path. The file's own
            is taken out and not parsed again: COCO's has 450 MB, GiBs in memory.

    Raises:
        UserError: as `read_annotations`; no annotation at all, images missing, or classes in the
            config that the file does not have.
    """
    root = Path(dataset.get('data_root') or '')
    path = root / (dataset.get('ann_file') or '')
    content = (parsed or {}).pop(path.resolve(), None) or read_annotations(path, root)
    classes = classes_of(dataset, path, content)
    check_not_empty(dataset, path, content, classes)
    folder = root / (dataset.data_prefix.get('img') or '')
    names = [image['file_name'] for image in content['images']]
    missing = missing_images(folder, names)
    if missing:
        raise UserError(
            f'{len(missing)} of {len(names)} images that {path} names are not in '
            f'{folder}: {some(missing)}'
        )
    if uses_masks(dataset):
        _check_masks(path, content)
    dropped = sum(a['area'] <= 0 or min(a['bbox'][2:]) < 1 for a in content['annotations'])
    if dropped:
        console.note(
            f'{path}: {dropped} of {len(content["annotations"])} annotations have no area or a '
            f'side below 1 pixel: they are not trained on, and count as missed in the validation'
        )
    return classes


def classes_of(dataset: Any, path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The classes of a dataset config, in the order of its annotation file.

    Raises:
        UserError: the config asks for some that the file does not have.
    """
    names = [category['name'] for category in content['categories']]
    wanted = (dataset.get('metainfo') or {}).get('classes') or names
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    foreign = [name for name in wanted if name not in names]
    if foreign:
        raise UserError(
            f'{path} has no category {some(map(repr, foreign))}, which the config asks for; it '
            f'has {some(map(repr, names))}'
        )
    return tuple(name for name in names if name in wanted)


def check_not_empty(
    dataset: Any, path: Path, content: dict[str, Any], classes: Sequence[str]
) -> None:
    """Check that something is left to load: an image of sufficient size with an annotation.

    Raises:
        UserError: nothing is.
    """
    ids = {c['id'] for c in content['categories'] if c['name'] in classes}
    annotated = {a['image_id'] for a in content['annotations'] if a['category_id'] in ids}
    min_size = (dataset.get('filter_cfg') or {}).get('min_size', 0)
    if not any(
        i['id'] in annotated and min(i['height'], i['width']) >= min_size for i in content['images']
    ):
        raise UserError(
            f'{path} has no annotation of {some(map(repr, classes))} in an image of at least '
            f'{min_size} pixels: there is nothing to train on or to evaluate'
        )


def missing_images(folder: Path, names: Sequence[str]) -> list[str]:
    """Which of the images are not in `folder`."""
    present = {file.name for file in os.scandir(folder)} if folder.is_dir() else set()
    return [n for n in names if n not in present and not (folder / n).is_file()]


def uses_masks(dataset: Any) -> bool:
    """Whether a dataset config loads masks."""
    return any(step.get('with_mask') for step in dataset.get('pipeline', []))


def _check_masks(path: Path, content: dict[str, Any]) -> None:
    """Every object needs a mask; mmdet would ignore a malformed one, or learn an empty one."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    if not any(annotation.get('segmentation') for annotation in content['annotations']):
        raise UserError(
            f'{path} has boxes without segmentation, but the config learns masks: use a '
            f'box detector, e.g. retinanet_effvim_m4 or rtmdet_effvim_m4'
        )
    for annotation in content['annotations']:
        size = sizes.get(annotation['image_id'], (math.inf, math.inf))
        problem = segmentation_problem(annotation.get('segmentation'), *size)
        if problem:
            raise UserError(
                f'{path}: the mask of annotation {annotation["id"]} (image '
                f'{annotation["image_id"]}) {problem}: fix it or remove it'
            )


def segmentation_problem(segmentation: Any, width: float, height: float) -> str:
    """Say what is wrong with an annotation's `segmentation`; '' if nothing.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, …], …], or a run-length encoded mask.
        width: of the image; infinite if unknown.
        height: likewise.
    """
    if isinstance(segmentation, dict):
        counts, size = segmentation.get('counts'), segmentation.get('size')
        if not isinstance(counts, (list, str)):
            return 'is run-length encoded but has no counts'
        if not isinstance(size, list) or set(map(type, size)) != {int}:
            return f'is of size {size!r:.99}, which is not two whole numbers'
        if width < math.inf and size != [height, width]:
            return f'is of size {size}, its image {[height, width]} (height, width)'
        # pycocotools fills what the runs leave open with whatever was in memory
        if width < math.inf and not _fills(counts, width * height):
            return f'has runs that do not make up its {width * height} pixels'
        return ''
    if not isinstance(segmentation, list) or not segmentation:
        return 'is missing'
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return 'has a polygon that is not a list of at least three points x, y'
        if (
            not set(map(type, polygon)) <= {int, float}
            or not max(map(abs, polygon)) < MAX_NUMBER
            or math.isnan(sum(polygon))
        ):
            return 'has a polygon with a point that is not two numbers'
        x, y = polygon[0::2], polygon[1::2]
        if max(x) <= 0 or max(y) <= 0 or min(x) >= width or min(y) >= height:
            return f'has a polygon outside the {width} × {height} pixels of the image'
        # the memory for drawing it grows with its length, however far it reaches
        if min(x) < -width or min(y) < -height or max(x) > 2 * width or max(y) > 2 * height:
            return f'has a polygon far beyond the {width} × {height} pixels of the image'
    return ''


def _fills(counts: list[Any] | str, pixels: float) -> bool:
    """Whether a mask's run lengths, plain or as COCO compresses them, add up to `pixels`."""
    if isinstance(counts, list):
        return all(type(n) is int and n >= 0 for n in counts) and sum(counts) == pixels
    # Six bits a character from '0' on: five of a number, lowest first, and whether more follow. The
    # highest bit of a number is its sign; from the fourth number on it is the difference to the
    # last but one.
    if not counts or not counts.isascii() or not '0' <= min(counts) <= max(counts) <= 'o':
        return False
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord('0')
    ends = np.flatnonzero(digits < 32)
    begins = np.append(0, ends + 1)[:-1]
    lengths = ends + 1 - begins
    if not len(ends) or ends[-1] + 1 != len(digits) or lengths.max() > 6:  # pycocotools' int
        return False
    places = 5 * (np.arange(len(digits)) - np.repeat(begins, lengths))
    runs = np.add.reduceat((digits & 31) << places, begins)
    runs -= (digits[ends] >> 4 & 1) << (5 * lengths)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return bool((runs >= 0).all() and runs.sum() == pixels)


def encode_mask(segmentation: Any, width: int, height: int) -> Any:
    """Convert a well-formed `segmentation` to the run-length mask that pycocotools works on.

    Args:
        segmentation: without `segmentation_problem`.
        width: of the image.
        height: of the image.
    """
    if isinstance(segmentation, dict) and isinstance(segmentation['counts'], str):
        return segmentation
    encoded = rle.frPyObjects(segmentation, height, width)
    return rle.merge(encoded) if isinstance(encoded, list) else encoded


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first names of a list for a message, and how many there are if there are more."""
    texts = list(map(str, names))
    return ', '.join(texts[:limit]) + (f' … ({len(texts)})' if len(texts) > limit else '')
