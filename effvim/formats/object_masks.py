"""One mask file for each object: they become instances.

A directory has images/ and masks/ for each image, e.g. ID/images/ID.png and ID/masks/*.png, or
masks/ has a directory for each image in images/. Pixels that are not 0 belong to the object; its
class is the directory of the file below the image's masks, or the only name in classes.txt.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.datasets.boxes import box_around
from effvim.files import numbered_lines
from effvim.formats.dataset import AnnotatedImage, Dataset, Instance
from effvim.formats.findings import Findings, Kind
from effvim.formats.masks import CLASSES, MASK_FOLDERS, SUFFIXES
from effvim.formats.opening import open_images
from effvim.formats.places import IMAGE_FOLDERS, by_split, children, split_folders, subfolders
from effvim.images import TRAINED_SUFFIXES, find_files

OBJECT = 'object'  # the class of objects that nobody named

DIFFERENT = 0.1  # fraction of directories without images or masks, of which others are found


class Place(NamedTuple):
    """The file of an image and the directory of the masks of its objects."""

    image: Path
    masks: Path


def find_places(root: Path) -> dict[str, list[Place]]:
    """Images and their directories of masks by split; empty if this is no such dataset.

    Raises:
        UserError: two directories are of one split.
    """
    folders = split_folders(root)
    splits = by_split({folder: places for folder in folders if (places := _places(folder))})
    if splits:
        return splits
    places = _places(root)
    return {'all': places} if places else {}


def _places(folder: Path) -> list[Place]:
    images = children(folder, IMAGE_FOLDERS)
    masks = _mask_folders(folder, images)
    if images and masks:
        by_stem = {path.stem: path for path in find_files(images[0], TRAINED_SUFFIXES)}
        own = {path.name: path for path in subfolders(masks[0])}
        if by_stem.keys() & own.keys() and not split_folders(masks[0]):
            return [Place(by_stem[stem], own[stem]) for stem in by_stem if stem in own]
        return []
    if split_folders(folder):
        return []
    places = []
    inner = subfolders(folder)
    for child in inner:
        images = children(child, IMAGE_FOLDERS)
        masks = _mask_folders(child, images)
        files = find_files(images[0], TRAINED_SUFFIXES) if images and masks else []
        # a single mask of the same name is one of classes
        if len(files) == 1 and [f.stem for f in find_files(masks[0], SUFFIXES)] != [files[0].stem]:
            places.append(Place(files[0], masks[0]))
    return places if places and len(places) >= (1 - DIFFERENT) * len(inner) else []


def _mask_folders(folder: Path, images: list[Path]) -> list[Path]:
    """Directories of mask files in `folder`."""
    found = children(folder, MASK_FOLDERS)
    return [path for path in found if path not in images and find_files(path, SUFFIXES)]


def read(root: Path, places: dict[str, list[Place]], findings: Findings) -> Dataset:
    """Read the dataset in a directory.

    Args:
        root: the directory.
        places: what `find_places` has found there.
        findings: receives what is wrong with images and masks.

    Raises:
        UserError: the class of the objects is not known.
    """
    name = _class_name(root, findings)
    found: dict[str, list[tuple[AnnotatedImage, list[tuple[str, Instance]]]]] = {}
    for split, own in places.items():
        for place in own:
            for image in open_images([place.image], place.image.parent, findings):
                objects = _read_objects(place.masks, image, name, findings)
                found.setdefault(split, []).append((image, objects))
    pairs = [pair for own_pairs in found.values() for pair in own_pairs]
    classes = tuple(sorted({name for _, objects in pairs for name, _ in objects}))
    names = [image.name for image, _ in pairs]
    for image, objects in pairs:
        image.instances.extend(i._replace(label=classes.index(name)) for name, i in objects)
    is_unique = len(set(names)) == len(names)
    return Dataset(
        root,
        classes or (name,),
        {
            split: [
                image if is_unique else image._replace(name=image.path.relative_to(root).as_posix())
                for image, _ in own_pairs
            ]
            for split, own_pairs in found.items()
        },
    )


def _class_name(root: Path, findings: Findings) -> str:
    path = root / CLASSES
    names = list(numbered_lines(path).values()) if path.is_file() else []
    if len(names) > 1:
        raise UserError(
            f'{path} has {len(names)} names, but the masks, one for each object, do not say which '
            f'of them it is: put them into directories named after the classes'
        )
    if not names:
        findings.note(
            f'one mask file for each object: their class is called {OBJECT!r}, unless a directory '
            f'says otherwise; write another name into {path}'
        )
    return names[0].strip() if names else OBJECT


def _read_objects(
    folder: Path, image: AnnotatedImage, name: str, findings: Findings
) -> list[tuple[str, Instance]]:
    """Class name and instance of each mask below a directory."""
    objects = []
    for file in find_files(folder, SUFFIXES):
        with findings.collect(Kind.MASK, image.path):
            inside = _read_mask(file, image)
            if not inside.any():
                findings.assume('masks of objects have no pixel and are ignored', file)
                continue
            encoded = rle.encode(np.asfortranarray(inside.astype(np.uint8)))
            segmentation = {'size': encoded['size'], 'counts': encoded['counts'].decode()}
            box, area = box_around(inside), float(inside.sum())
            instance = Instance(0, box, segmentation, area=area, origin=str(file))
            own = file.parent.relative_to(folder).as_posix()
            objects.append((name if own == '.' else own, instance))
    return objects


def _read_mask(file: Path, image: AnnotatedImage) -> np.ndarray:
    """The pixels that belong to an object: H W, bool."""
    try:
        with Image.open(file) as opened:
            is_plain = opened.mode in ('1', 'L', 'P') or opened.mode.startswith('I')
            inside = np.asarray(opened if is_plain else opened.convert('L')) > 0
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        raise UserError(f'mask {file} cannot be read: {error}; repair or replace it') from error
    if inside.shape != (image.height, image.width):
        raise UserError(
            f'mask {file} has {inside.shape[1]} × {inside.shape[0]} pixels, its image '
            f'{image.path.name} {image.width} × {image.height}: they must be of one size'
        )
    return inside
