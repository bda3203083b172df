"""One's own data in whichever format it comes: which one a folder or a file is."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import UserError
from effvim.formats import coco, masks, voc, yolo
from effvim.formats.dataset import DataSet, walk

LAYOUTS = (
    'data.yaml (YOLO; one of another name is given itself), annotations/*.json or '
    '*/_annotations.coco.json (COCO), Annotations/*.xml or *.xml beside the pictures (Pascal VOC), '
    'or images/, masks/*.png and classes.txt'
)


def read(source: Path) -> DataSet:
    """The data set in a folder, or the one that a *.yaml or a *.json describes.

    Raises:
        UserError: it is none, or something in it cannot be read; names file and line.
    """
    try:
        return _read(source)
    except OSError as error:
        raise UserError(f'{error.filename or source} cannot be read: {error.strerror}') from error


def _read(source: Path) -> DataSet:
    if not source.exists():
        raise UserError(f'{source} not found: name the folder of a data set: {LAYOUTS}')
    if source.suffix in ('.yaml', '.yml'):
        return yolo.read(source)
    if source.suffix == '.json':
        return coco.read(source.parent, [source])
    if (source / 'data.yaml').is_file():
        return yolo.read(source / 'data.yaml')
    files = coco.files_of(source)
    if files:
        return coco.read(source, files)
    if masks.folder_of(source):
        return masks.read(source)
    if source.is_dir() and walk(source, ['.xml']):
        return voc.read(source)
    raise UserError(f'{source} is no data set that is known here: expected is {LAYOUTS}')
