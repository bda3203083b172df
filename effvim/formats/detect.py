"""Detect the format of a dataset, and read it."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import UserError
from effvim.formats import coco, masks, voc, yolo
from effvim.formats.dataset import Dataset, find_files

LAYOUTS = (
    'data.yaml (YOLO; a YAML of another name is given itself), annotations/*.json or '
    '*/_annotations.coco.json (COCO), Annotations/*.xml or *.xml next to the images (Pascal VOC), '
    'or images/, masks/*.png and classes.txt'
)


def read(source: Path) -> Dataset:
    """Read the dataset in a directory, or the one that a YAML or JSON file describes.

    Raises:
        UserError: its format is unknown, or something in it cannot be read; names file and line.
    """
    try:
        return _read(source)
    except OSError as error:
        raise UserError(f'{error.filename or source} cannot be read: {error.strerror}') from error


def _read(source: Path) -> Dataset:
    if not source.exists():
        raise UserError(f'{source} not found: name the directory of a dataset: {LAYOUTS}')
    if source.suffix in ('.yaml', '.yml'):
        return yolo.read(source)
    if source.suffix == '.json':
        return coco.read(source.parent, [source])
    if (source / 'data.yaml').is_file():
        return yolo.read(source / 'data.yaml')
    files = coco.annotation_files(source)
    if files:
        return coco.read(source, files)
    if masks.find_masks(source):
        return masks.read(source)
    if source.is_dir() and find_files(source, ['.xml']):
        return voc.read(source)
    raise UserError(f'{source} is not a dataset of a known format: expected is {LAYOUTS}')
