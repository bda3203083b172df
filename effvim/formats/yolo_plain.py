"""YOLO's label files without a data.yaml, as labelImg, Label Studio, CVAT and Darknet write them.

The names are in a file like classes.txt. Labels are in labels/ or next to their images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from backbone.errors import UserError
from effvim.files import numbered_lines
from effvim.formats.dataset import AnnotatedImage, Dataset, group_by_split, split_named
from effvim.formats.findings import Findings
from effvim.formats.places import (
    IMAGE_FOLDERS,
    children,
    find_lists,
    split_folders,
    visible_files,
    without_folders,
)
from effvim.formats.yolo import listed_images, numbered, read_files
from effvim.formats.yolo_labels import LABEL_FOLDERS, looks_like_labels
from effvim.images import TRAINED_SUFFIXES, UNREAD_SUFFIXES, find_files

# Files with a name a line, the first for class 0, in lower case.
NAME_FILES = (
    *('classes.txt', 'obj.names', 'classes.names', 'names.txt', '_darknet.labels'),
    *('predefined_classes.txt', 'class_names.txt', 'labels.txt'),
)

NOTES = 'notes.json'  # of Label Studio, with the names as well


class Source(NamedTuple):
    """Where the names are, and which text files list images, by split."""

    names: Path
    lists: dict[str, Path]


def find(root: Path) -> Source | None:
    """The file of names in a directory of label files; None if this is no such dataset."""
    folders = [
        root,
        *children(root, (*LABEL_FOLDERS, *IMAGE_FOLDERS)),
        *split_folders(root),
    ]
    lists: dict[str, Path] = {}
    names = None
    for path in visible_files(root, ['.data']):  # of Darknet: key = value
        for line in numbered_lines(path).values():
            key, _, value = (part.strip() for part in line.partition('='))
            file = root / value.replace('\\', '/').rpartition('/')[2]
            if key == 'names' and file.is_file():
                names = file
            elif split_named(key) and file.is_file():
                lists[split_named(key) or ''] = file
    for folder in folders:
        files = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
        found = [files[name] for name in (*NAME_FILES, NOTES) if name in files]
        names = names or next(iter(found), None)
    if names is None or not _has_labels(root):
        return None
    return Source(names, lists or _lists(root))


def _lists(root: Path) -> dict[str, Path]:
    return {split: path for split, path in find_lists(root).items() if split_named(split)}


def _has_labels(root: Path) -> bool:
    return any(looks_like_labels(file) for file in find_files(root, ['.txt'])[:50])


def read(root: Path, source: Source, findings: Findings) -> Dataset:
    """Read the dataset in a directory that `find` accepts.

    Raises:
        UserError: there are no names or no images.
    """
    names = _read_names(source.names)
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, path in source.lists.items():
        files = listed_images(path, root, findings)
        splits[split] = read_files(files, [], names, source.names, split, findings)
    if not splits:
        files = find_files(root, (*TRAINED_SUFFIXES, *UNREAD_SUFFIXES))
        if not files:
            raise UserError(f'{root} holds label files, but no images: put them into images/')
        images = read_files(files, [root], names, source.names, 'all', findings)
        images = [
            image._replace(name=without_folders(image.name, IMAGE_FOLDERS)) for image in images
        ]
        splits = group_by_split(images, root)
    return numbered(Dataset(root, (), splits), names, findings)


def _read_names(path: Path) -> dict[int, str]:
    if path.name.lower() == NOTES:
        try:
            content = json.loads(path.read_text('utf-8-sig'))
            return {item['id']: item['name'] for item in content['categories']}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f'{path} has no list of categories with id and name') from error
    names = {number - 1: line.strip() for number, line in numbered_lines(path).items()}
    if not names:
        raise UserError(f'{path} is empty: write the name of a class into each line')
    return names
