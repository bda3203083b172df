"""Files of other programs for each predicted image, see `conversions`; importing needs no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from effvim.files import write_atomic

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction

FORMATS = ('yolo', 'labelme', 'geojson', 'label-studio', 'crops')


def save_as(
    kind: str, prediction: Prediction, out: Path, image: Path, name: str, stem: str
) -> None:
    """Write the files of one format for one image below `out/KIND`.

    Args:
        kind: one of `FORMATS`.
        prediction: of the image; all of its objects are written.
        out: the output directory.
        image: the image's file.
        name: of the image, relative to the common directory of all.
        stem: name of what is written, without its suffix.

    Raises:
        OSError: a file cannot be written.
    """
    folder = out / kind
    if kind == 'crops':
        prediction.save_crops(folder, stem)
    elif kind == 'yolo':
        names = ''.join(f'{name}\n' for name in prediction.classes)
        classes = folder / 'classes.txt'
        if not classes.is_file() or classes.read_bytes() != names.encode():
            write_atomic(classes, names.encode())
        write_atomic(folder / f'labels/{stem}.txt', prediction.to_yolo().encode())
    elif kind == 'labelme':
        path = folder / f'{stem}.json'
        _write_json(path, prediction.to_labelme(_seen_from(path.parent, image)))
    elif kind == 'geojson':
        _write_json(folder / f'{stem}.geojson', prediction.to_geojson())
    else:
        url = f'/data/local-files/?d={quote(os.fsencode(name))}'
        _write_json(folder / f'{stem}.json', prediction.to_label_studio(url))


def _seen_from(folder: Path, image: Path) -> str:
    """The path of an image from a directory, which may be reached through links."""
    try:
        path = os.path.relpath(os.path.realpath(image), os.path.realpath(folder))
    except ValueError:  # on another drive of Windows
        path = os.path.abspath(image)
    return Path(path).as_posix()


def _write_json(path: Path, content: object) -> None:
    write_atomic(path, json.dumps(content).encode())  # in ASCII: names need not be in UTF-8
