"""Directories and lists of files under the names that tools and people give them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.files import numbered_lines
from effvim.formats.dataset import SPLITS, AnnotatedImage, split_in_name, split_named
from effvim.images import is_hidden

Content = TypeVar('Content')

# Directories that hold images, in lower case. Those of splits come before them.
IMAGE_FOLDERS = (
    *('images', 'jpegimages', 'pngimages', 'image', 'imgs', 'img', 'img_dir', 'data'),
    *('pictures', 'photos', 'frames', 'rgb', 'leftimg8bit'),
)

# Directories of files that list the images of a split, below the dataset.
LIST_FOLDERS = ('imagesets/main', 'imagesets/segmentation', 'imagesets', 'splits', '')

REST = ('trainval', 'default', 'all')  # lists of images that are in no split


def children(folder: Path, names: Iterable[str]) -> list[Path]:
    """The subdirectories of `folder` that have one of the names, in upper or lower case.

    They come in the order of `names`, which are in lower case; a name may hold slashes.
    """
    found = []
    for name in names:
        level = [folder]
        for part in name.split('/') if name else []:
            level = [child for parent in level for child in subfolders(parent, part)]
        found += level
    return list(dict.fromkeys(found))


def subfolders(folder: Path, name: str | None = None) -> list[Path]:
    """Visible subdirectories, sorted; only those of this name in lower case, if one is given."""
    if not folder.is_dir():
        return []
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if not is_hidden(entry.name) and name in (None, entry.name.lower()) and entry.is_dir()
    )


def split_folders(folder: Path) -> list[Path]:
    """The subdirectories that are named after splits."""
    return [child for child in subfolders(folder) if split_named(child.name)]


def by_split(contents: Mapping[Path, Content]) -> dict[str, Content]:
    """What directories named after splits hold, by split.

    Raises:
        UserError: two are named after one split.
    """
    folders: dict[str, Path] = {}
    for folder in contents:
        split = split_named(folder.name) or ''
        first = folders.setdefault(split, folder)
        if first != folder:
            raise UserError(
                f'{folder} is a second directory of the split {split}, next to {first}: merge '
                f'them, or rename one'
            )
    return {split: contents[folder] for split, folder in folders.items()}


def visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Visible files directly in `folder` with one of the suffixes, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not is_hidden(path.name) and path.is_file()
    )


def find_lists(root: Path) -> dict[str, Path]:
    """Text files that list the images of a split, by split, or those of `REST`."""
    for folder in children(root, LIST_FOLDERS):
        found = {
            name: path
            for path in visible_files(folder, ['.txt'])
            if (name := split_named(path.stem) or path.stem.lower()) in ('train', 'val', 'test')
            or name in REST
        }
        if found and (set(found) - set(REST) or folder != root):
            return found
    return {}


def listed_splits(
    root: Path, by_stem: Mapping[str, AnnotatedImage]
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Splits by the lists below `root`, and notes; no split if there are no lists.

    Raises:
        UserError: a list names an image that is not there.
    """
    lists = find_lists(root)
    notes = []
    rest = next((lists.pop(name) for name in REST if name in lists), None)
    splits = {split: _listed(path, by_stem) for split, path in lists.items()}
    if rest and not {'train', 'val'} & set(splits):
        # without a val the images to train on, next to those of test, or simply the images
        splits = {'train' if splits else 'all': _listed(rest, by_stem), **splits}
        notes.append(f'{rest} lists the images that are used; there is no list train or val')
    elif rest and 'train' not in splits:
        val = {image.path for image in splits['val']}
        train = [image for image in _listed(rest, by_stem) if image.path not in val]
        splits = {'train': train, **splits}
        notes.append(f'train is what {rest} lists and {lists["val"].name} does not')
    used = {image.path for images in splits.values() for image in images}
    unlisted = len(by_stem) - len(used)
    if splits and unlisted > 0:
        folder = (rest or next(iter(lists.values()))).parent
        notes.append(
            f'{unlisted} of {len(by_stem)} images are in no list of {folder}: they are ignored'
        )
    order = [name for name in ('all', 'train', 'val', 'test') if name in splits]
    return {name: splits[name] for name in order}, notes


def _listed(path: Path, by_stem: Mapping[str, AnnotatedImage]) -> list[AnnotatedImage]:
    """The images in a list."""
    images, absent = [], []
    for line in numbered_lines(path).values():
        stem = next((stem for stem in _stems(line) if stem in by_stem), None)
        if stem is None:
            absent.append(line.strip())
        else:
            images.append(by_stem[stem])
    if absent:
        raise UserError(
            f'{path}: of {len(absent)} of {len(absent) + len(images)} lines there is no image, '
            f'{coco.some(absent, 3)}: remove these lines or add the images'
        )
    return images


def _stems(line: str) -> Iterable[str]:
    """What a line of a list may mean, as the name of an image without suffix.

    A class's list of VOC has -1, 0 or 1 behind each name; others have paths, also of Windows, or
    the path of the image before that of its annotation.
    """
    whole = line.strip()
    yield whole
    yield re.sub(r'\s+-?[01]$', '', whole).strip()
    for text in (whole, *whole.split()[:1]):
        parts = text.replace('\\', '/').split('/')
        for i in range(len(parts)):
            name = '/'.join(parts[i:])
            yield name
            yield os.path.splitext(name)[0]


def image_places(root: Path, own: Path, name: str) -> list[Path]:
    """Directories where the images of a split may be, the nearest to its name first.

    Args:
        root: the dataset.
        own: the directory of the annotation file.
        name: what the annotation file calls the split, e.g. val2017; '' if it has no name.
    """
    split = split_in_name(name)
    same = sorted(other for other in SPLITS if split and SPLITS[other] == split)
    names = [name.lower(), f'{name.lower()}2017', *same, 'default'] if name else ['default']
    bases = list(dict.fromkeys((root, own)))
    tops = [folder for base in bases for folder in (base, *children(base, IMAGE_FOLDERS))]
    nested = [folder for top in tops for folder in children(top, names)]
    deeper = [inner for folder in nested for inner in children(folder, IMAGE_FOLDERS)]
    plain = [top for top in tops if top not in bases]
    return list(dict.fromkeys([*nested, *deeper, *plain, own, root]))


def without_folders(name: str, folders: Iterable[str]) -> str:
    """A path with / without the directories of these names, which are in lower case."""
    *above, file = name.split('/')
    return '/'.join([*(folder for folder in above if folder.lower() not in folders), file])
