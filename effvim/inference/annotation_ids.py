"""The ids that an annotation file gives to images and classes, for results that belong to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from backbone.errors import UserError
from effvim import console


class AnnotationIds(NamedTuple):
    """Ids of the images, in the order in which they were asked for, and of the classes by label."""

    images: list[int]
    categories: list[int]


def ids_of(
    paths: Sequence[Path],
    root: Path,
    classes: Sequence[str],
    annotations: Path | None = None,
) -> AnnotationIds | None:
    """Look up the ids of images in COCO's annotation file of their directory.

    Args:
        paths: the images.
        root: the directory that all of them are in.
        classes: class names by label.
        annotations: the annotation file (default: that of `root` in the layouts of COCO and
            Roboflow).

    Returns:
        The ids; None if there is no annotation file, or one that was not asked for does not list
        these images or classes, which is then said.

    Raises:
        UserError: `annotations` cannot be read, or does not list an image or a class.
    """
    file = annotations or find_annotations(root)
    if file is None:
        return None
    try:
        return _look_up(_read(file), paths, root, classes, file)
    except UserError as error:
        if annotations:
            raise
        console.note(f'{error}: ids of the results are not those of this file')
        return None


def find_annotations(root: Path) -> Path | None:
    """The annotation file of a directory of images in the layouts of COCO and Roboflow, if any."""
    root = root.absolute()
    candidates = [root / '_annotations.coco.json']
    for folder in (root.parent, root.parent.parent):
        candidates.append(folder / f'annotations/instances_{root.name}.json')
    return next((file for file in candidates if file.is_file()), None)


def _read(file: Path) -> dict[str, list[tuple[str, int]]]:
    """The name and id of every image and category."""
    try:
        content = json.loads(file.read_bytes())
        return {
            'images': [(str(image['file_name']), image['id']) for image in content['images']],
            'categories': [(str(each['name']), each['id']) for each in content['categories']],
        }
    except OSError as error:
        raise UserError(f'--annotations {file} cannot be read: {error.strerror}') from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not an annotation file of COCO's: it needs images with file_name and id, "
            f'and categories with name and id'
        ) from error


def _look_up(
    content: dict[str, list[tuple[str, int]]],
    paths: Sequence[Path],
    root: Path,
    classes: Sequence[str],
    file: Path,
) -> AnnotationIds:
    by_name: dict[str, int] = {}
    by_last: dict[str, list[int]] = {}  # names without their directory
    for name, image_id in content['images']:
        name = name.replace('\\', '/')
        by_name[name] = image_id
        by_last.setdefault(name.rpartition('/')[2], []).append(image_id)
    images, used = list[int](), dict[int, Path]()
    for path in paths:
        names = [
            path.relative_to(root).as_posix(),
            f'{root.name}/{path.relative_to(root).as_posix()}',
        ]
        found = next((by_name[name] for name in names if name in by_name), None)
        alike = by_last.get(path.name, [])
        if found is None and len(alike) == 1:
            (found,) = alike
        if found is None:
            raise UserError(f'{file} does not list the image {path}')
        if found in used:
            raise UserError(f'{file} lists one image for {used[found]} and {path}')
        used[found] = path
        images.append(found)
    ids = dict(content['categories'])
    unknown = [name for name in classes if name not in ids]
    if unknown:
        raise UserError(f'{file} does not list the class {unknown[0]}')
    return AnnotationIds(images, [ids[name] for name in classes])
