"""Pictures and boxes of one's own, in whatever format they came: what is known of them."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.images import examine_image

OVERHANG = 1.0  # pixels that a box may leave its picture by, of rounding

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

PARTS = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}  # names of parts by how they are written


class Thing(NamedTuple):
    """One object.

    label: index into the classes. box: x1, y1, x2, y2 in pixels. outline: as COCO writes it, None
    if the format has none. crowd: many of a kind in one box. area: in pixels, None if it is the
    box's.
    """

    label: int
    box: tuple[float, float, float, float]
    outline: Any = None
    crowd: bool = False
    area: float | None = None


class Picture(NamedTuple):
    """One picture: its file, its name below the pictures' folder, with /, and what is in it.

    mask: a file with the class of every pixel, of data for segmentors; `things` then holds one
    region for each class that the picture has.
    """

    path: Path
    name: str
    width: int
    height: int
    things: list[Thing]
    mask: Path | None = None


class DataSet(NamedTuple):
    """Parts, e.g. train and val, or `all` where the source has none.

    notes: what is odd in the source, and how it was taken.
    """

    source: Path
    classes: tuple[str, ...]
    parts: dict[str, list[Picture]]
    notes: tuple[str, ...] = ()

    def pictures(self) -> list[Picture]:
        """Those of all parts; where a name occurs in two, all names begin with their part's."""
        merged = [picture for part in self.parts.values() for picture in part]
        if len({picture.name for picture in merged}) == len(merged):
            return merged
        return [
            picture._replace(name=f'{part}/{picture.name}')
            for part, pictures in self.parts.items()
            for picture in pictures
        ]


def part_of(name: str) -> str | None:
    """train, val or test for a name of it as it is written here and there, e.g. train2017."""
    return PARTS.get(re.sub(r'\d{4}$', '', name.lower()))


def by_folder(pictures: Sequence[Picture], root: Path) -> dict[str, list[Picture]]:
    """Parts, where the first folders of the pictures' names are those of parts; else `all`.

    Raises:
        UserError: some are, some are not.
    """
    parts: dict[str, list[Picture]] = {}
    for picture in pictures:
        first, slash, rest = picture.name.partition('/')
        part = part_of(first) if slash else None
        parts.setdefault(part or 'all', []).append(picture._replace(name=rest) if part else picture)
    if 'all' in parts and len(parts) > 1:
        raise UserError(
            f'{root} has folders for parts and pictures that are in none, e.g. '
            f'{parts["all"][0].name}: put these into train, val or test'
        )
    return parts or {'all': []}


def picture_of(path: Path, name: str) -> Picture:
    """A picture without objects, of the size that training sees.

    Raises:
        UserError: it cannot be read, or stops early.
    """
    try:
        (width, height), _ = examine_image(path)
    except Exception as error:  # decoders raise what they like over foreign bytes
        raise UserError(f'{path} cannot be read or is cut short: {error}; replace it') from error
    return Picture(path, name, width, height, [])


def check_size(picture: Picture, said: tuple[int, int], path: Path) -> None:
    """See whether a picture has the width and height that the annotations in `path` say.

    Raises:
        UserError: it has not.
    """
    if said != (picture.width, picture.height):
        raise UserError(
            f'{picture.path} has {picture.width} × {picture.height} pixels, {path} '
            f'says {said[0]} × {said[1]}: are they of one picture?'
        )


def checked(data: DataSet, clip: bool) -> DataSet:
    """`data` if its classes and boxes make sense; every box ends at its picture's edge.

    clip: boxes that leave their picture are cut, otherwise they are an error.

    Raises:
        UserError: they do not, or there is no picture or no object.
    """
    twice = [name for name, count in Counter(data.classes).items() if count > 1]
    if twice or '' in data.classes:
        raise UserError(
            f'{data.source}: classes {", ".join(map(repr, data.classes))}: give each a '
            f'name of its own'
        )
    places: dict[Path, str] = {}
    for part, pictures in data.parts.items():
        if not pictures:
            raise UserError(
                f'{data.source}: the part {part} holds no picture: fill it or take it out'
            )
        for picture in pictures:
            path = picture.path.resolve()
            if path in places:
                raise UserError(
                    f'{picture.path} is in {part}'
                    + (
                        ' twice: once is right'
                        if places[path] == part
                        else f' and in {places[path]}: take it out of one of them'
                    )
                )
            places[path] = part
    if not any(picture.things for picture in data.pictures()):
        raise UserError(
            f'{data.source}: no picture has an object: are the labels where the format wants them?'
        )
    return data._replace(
        parts={
            part: [_within(picture, clip) for picture in pictures]
            for part, pictures in data.parts.items()
        }
    )


def _within(picture: Picture, clip: bool) -> Picture:
    things = []
    for thing in picture.things:
        x1, y1, x2, y2 = thing.box
        what = f'{picture.path}: box {", ".join(f"{v:.5g}" for v in thing.box)} (x1, y1, x2, y2)'
        if not all(map(math.isfinite, thing.box)):
            raise UserError(f'{what} is not four numbers')
        if x2 < x1 or y2 < y1:
            raise UserError(f'{what} has a negative side')
        new = (max(x1, 0), max(y1, 0), min(x2, picture.width), min(y2, picture.height))
        size = f'the picture of {picture.width} × {picture.height} pixels'
        if new[0] > new[2] or new[1] > new[3]:
            raise UserError(f'{what} is outside {size}: mend it or take it out')
        if not clip and max(abs(a - b) for a, b in zip(new, thing.box)) > OVERHANG:
            raise UserError(f'{what} leaves {size}: mend it, or cut such boxes with --clip')
        cut = new != thing.box
        outline = _cut(thing.outline, picture) if cut else thing.outline
        things.append(thing._replace(box=new, outline=outline, area=None if cut else thing.area))
    return picture._replace(things=things)


def _cut(outline: Any, picture: Picture) -> Any:
    """Polygons with every point inside the picture; run lengths always are."""
    if not isinstance(outline, list):
        return outline
    size = np.array([picture.width, picture.height])
    return [np.clip(np.reshape(polygon, (-1, 2)), 0, size).ravel().tolist() for polygon in outline]


def pixels(outline: Any, width: int, height: int) -> Any:
    """An outline, see `Thing`, as a mask of pycocotools."""
    if isinstance(outline, dict) and isinstance(outline['counts'], str):
        return outline
    found = rle.frPyObjects(outline, height, width)
    return rle.merge(found) if isinstance(outline, list) else found


def counts(pictures: Sequence[Picture], classes: Sequence[str]) -> dict[str, int]:
    """Objects of each class, crowds left out."""
    found = Counter(t.label for p in pictures for t in p.things if not t.crowd)
    return {name: found[label] for label, name in enumerate(classes)}


def stems(pictures: Sequence[Picture], what: str) -> Mapping[str, Picture]:
    """Pictures by their name without suffix, by which `what` finds their labels.

    Raises:
        UserError: two have the same.
    """
    found: dict[str, Picture] = {}
    for picture in pictures:
        stem = os.path.splitext(picture.name)[0]
        if stem in found:
            raise UserError(
                f'{found[stem].path} and {picture.path} would share one {what}: rename one of them'
            )
        found[stem] = picture
    return found


def walk(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Files below `folder`, sorted, through links; what is hidden is left out.

    Raises:
        UserError: it is no folder. OSError: one inside cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}')

    def stop(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for top, folders, files in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(top)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith('.')]
        found += [
            Path(top, file)
            for file in files
            if real not in seen
            and not file.startswith('.')
            and Path(file).suffix.lower() in suffixes
        ]
        seen.add(real)
    return sorted(found)
