"""The class of every pixel, in whatever way the pixels of a mask file stand for classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.files import numbered_lines

IGNORED = ('ignore', 'ignored', 'void')  # names of what is not trained on, in tables

# Tables that are found next to the directories of images and masks, in lower case.
TABLES = (
    *('colors.txt', 'colours.txt', 'colors.csv', 'colors.json', 'colormap.txt', 'color_map.txt'),
    *('label_colors.txt', 'labelmap.txt', 'class_dict.csv', 'values.txt'),
)

NUMBER = r'(\d+)'
SPACE = r'[\s,;:=]+'

ROWS = [  # name and colour, name and value, in both orders; behind a name CVAT writes ::
    re.compile(rf'(?:\d+{SPACE}(?=\D))?(?P<name>\D.*?){SPACE}{SPACE.join([NUMBER] * 3)}[\s:,;]*'),
    re.compile(rf'{SPACE.join([NUMBER] * 3)}{SPACE}(?P<name>.+?)[\s:,;]*'),
    re.compile(rf'{NUMBER}{SPACE}(?P<name>.+?)[\s:,;]*'),
    re.compile(rf'(?P<name>.+?){SPACE}{NUMBER}[\s:,;]*'),
]


class Coding(NamedTuple):
    """How the pixels of masks stand for classes.

    Attributes:
        labels: the label of a pixel by its value, or by its colour R + 256 G + 65536 B.
        colours: whether pixels are colours.
        source: the file that says so, for messages.
    """

    labels: Mapping[int, int]
    colours: bool
    source: Path


class LabelMap(NamedTuple):
    """The class of every pixel of an image.

    Attributes:
        path: of the mask.
        coding: how its pixels stand for classes; None if their values are labels.
    """

    path: Path
    coding: Coding | None = None


def read_labels(label_map: LabelMap, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Read the labels of an image: H W, uint8; 255 is ignored.

    Args:
        label_map: the mask.
        size: width and height of its image.
        num_classes: how many classes there are.

    Raises:
        UserError: it cannot be read, is of another size, or has pixels that stand for no class.
    """
    path, coding = label_map
    is_grey = not (coding and coding.colours) and _is_grey(path)
    if coding is None and is_grey:
        labels = {i: i for i in (*range(num_classes), ade.UNLABELLED)}
        coding = Coding(labels, False, Path('classes.txt'))
    if coding is None:
        try:
            return ade.check_labels(path, size, num_classes, False).astype(np.uint8)
        except UserError as error:
            if 'channels' in str(error):
                raise UserError(
                    f'{error}; name the class of each colour in a table, see --colors'
                ) from error
            raise
    pixels = _pixels(path, True) & 255 if is_grey else _pixels(path, coding.colours)
    if pixels.shape[::-1] != tuple(size):
        raise UserError(
            f'mask {path} has {pixels.shape[1]} × {pixels.shape[0]} pixels, its image '
            f'{size[0]} × {size[1]}: they must be of one size'
        )
    values, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    known = np.array([int(value) in coding.labels for value in values])
    if not known.all():
        unknown = sorted(zip(-counts[~known], values[~known]))[:3]
        text = ', '.join(_text(int(value), coding.colours) for _, value in unknown)
        text = f'{counts[~known].sum():,} pixels of {text}, which {coding.source} does not name'
        if is_grey:
            raise UserError(
                f'mask {path} has several channels of equal values and {text}: save one channel '
                f'whose values are classes, or name the class of each value, see --colors'
            )
        raise UserError(
            f'mask {path} has {text}: add a line, or save the mask without smoothing and '
            f'compression'
        )
    table = np.array([coding.labels[int(value)] for value in values], np.uint8)
    return table[places].reshape(pixels.shape)


def _pixels(path: Path, colours: bool) -> np.ndarray:
    """Values of a mask of one channel, or colours as one number: H W."""
    try:
        with Image.open(path) as image:
            if not colours:
                values = np.asarray(image)
            else:
                rgb = np.asarray(image.convert('RGB')).astype(np.int64)
                values = rgb @ (1, 256, 65536)
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        raise UserError(f'mask {path} cannot be read: {error}; repair or replace it') from error
    if values.ndim != 2:
        raise UserError(
            f'mask {path} has {values.shape[2]} channels: name the class of each colour in a '
            f'table, see --colors'
        )
    return values.astype(np.int64)


def _is_grey(path: Path) -> bool:
    """Whether a mask has several channels that are all the same, as painting programs save them."""
    try:
        with Image.open(path) as image:
            if image.mode not in ('RGB', 'RGBA', 'LA'):
                return False
            pixels = np.asarray(image.convert('RGB'))
    except Exception:  # the error comes with a message from what reads it next
        return False
    return bool((pixels == pixels[..., :1]).all())


def values_of(path: Path) -> set[int]:
    """The values in a mask; of colours, where the channels are the same, their value.

    Raises:
        UserError: it cannot be read, or has colours.
    """
    pixels = _pixels(path, True) & 255 if _is_grey(path) else _pixels(path, False)
    return set(np.unique(pixels).tolist())


def _text(value: int, colour: bool) -> str:
    if not colour:
        return f'value {value}'
    return f'colour {value & 255} {value >> 8 & 255} {value >> 16 & 255}'


def is_coded_as_labels(label_map: LabelMap) -> bool:
    """Whether the file holds the labels themselves, as training reads them."""
    if label_map.coding or label_map.path.suffix.lower() != '.png':
        return False
    with Image.open(label_map.path) as image:
        return image.mode in ('L', 'P')


def read_table(path: Path) -> tuple[tuple[str, ...], Coding]:
    """Read a table of colours or values; return the classes and how pixels stand for them.

    Each line has a name and a colour R G B or a value, in any order, with blanks, commas or colons
    between them; a header and lines that begin with # are skipped. Several colours may have one
    name. What is called ignore or void is not trained on. A JSON file maps names to colours.

    Raises:
        UserError: it cannot be read, or mixes colours and values.
    """
    rows = _json_rows(path) if path.suffix.lower() == '.json' else _text_rows(path)
    if not rows:
        raise UserError(f'{path} names no class: expected is a line "R G B NAME" for each colour')
    if len({len(numbers) for _, numbers in rows}) > 1:
        raise UserError(f'{path} has lines with a colour R G B and lines with one value: use one')
    colours = len(rows[0][1]) == 3
    too_large = next((n for _, numbers in rows for n in numbers if colours and n > 255), None)
    if too_large is not None:
        raise UserError(f'{path}: {too_large} is no part of a colour, which go from 0 to 255')
    classes = tuple(dict.fromkeys(name for name, _ in rows if name.lower() not in IGNORED))
    if not 2 <= len(classes) <= ade.UNLABELLED:
        raise UserError(f'{path} names {len(classes)} classes: needed are 2 to {ade.UNLABELLED}')
    labels: dict[int, int] = {}
    for name, numbers in rows:
        key = sum(number << 8 * i for i, number in enumerate(numbers))
        label = ade.UNLABELLED if name.lower() in IGNORED else classes.index(name)
        if labels.setdefault(key, label) != label:
            raise UserError(f'{path}: {_text(key, colours)} stands for two classes: remove one')
    return classes, Coding(labels, colours, path)


def _text_rows(path: Path) -> list[tuple[str, list[int]]]:
    rows = []
    for number, line in numbered_lines(path).items():
        text = line.strip()
        if text.startswith('#'):
            continue
        match = next((match for row in ROWS if (match := row.fullmatch(text))), None)
        if match:
            name = match.re.groupindex['name']
            numbers = [int(group) for i, group in enumerate(match.groups(), 1) if i != name]
            rows.append((match['name'].strip('"\' \t'), numbers))
        elif rows:
            raise UserError(f'{path}, line {number}: expected is a name and a colour R G B')
    return rows


def _json_rows(path: Path) -> list[tuple[str, list[int]]]:
    expected = f'{path} must map names to colours, e.g. {{"leaf": [0, 255, 0]}}'
    try:
        content: Any = json.loads(path.read_text('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{expected}: {error}') from error
    if isinstance(content, list) and all(isinstance(item, dict) for item in content):
        content = {item.get('name'): item.get('color', item.get('id')) for item in content}
    if not isinstance(content, dict):
        raise UserError(expected)
    rows = []
    for name, value in content.items():
        numbers = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(type(n) is int and n >= 0 for n in numbers):
            raise UserError(expected)
        if len(numbers) not in (1, 3):
            raise UserError(expected)
        rows.append((name, numbers))
    return rows
