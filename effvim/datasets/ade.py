"""ADE20K pictures and annotations: what can be wrong with them, found before anything is trained.

Folders and names are checked without mmseg, and before the run. What is inside an annotation is
checked whenever one is loaded (`check_labels`), and in a few of them before the run, since what is
wrong in one is often wrong in all.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbone.errors import UserError
from backbone.openmmlab import ops
from effvim.console import quiet

LAYOUT = (
    'images/training/*.jpg, annotations/training/*.png, images/validation/*.jpg, '
    'annotations/validation/*.png'
)

PROBED = 32  # annotations of each split that are read before the run

UNLABELLED = 255  # mmseg's label of pixels that do not count


def check_all(loaders: Sequence[Any]) -> tuple[str, ...]:
    """Check the data sets of several loaders; returns the classes, which must agree.

    Raises:
        UserError: as `check`, or the data sets have different classes.
    """
    found = [check(loader.dataset) for loader in loaders]
    if any(classes != found[0] for classes in found):
        raise UserError(
            'the data sets of the config have different classes: set the same '
            'metainfo.classes in each of them, or none'
        )
    return found[0]


def check(dataset: Any) -> tuple[str, ...]:
    """Check one data set config (ADE20KDataset and its like) against the disk; returns its classes.

    Raises:
        UserError: a folder is absent or another data set's, pictures and annotations do not pair
            up, the classes are unknown, or an annotation that was read is wrong.
    """
    pairs = pairs_of(dataset)
    classes, labels = classes_of(dataset)
    reduced = setting(dataset, 'reduce_zero_label')
    for image, annotation in pairs[:: -(-len(pairs) // PROBED)]:
        check_labels(annotation, size_of(image), labels, reduced)
    return classes


def check_labels(path: Path, size: tuple[int, int], number: int, reduced: bool) -> np.ndarray:
    """See that an annotation holds one label for each pixel of its picture; returns them, H W.

    Args:
        path: the annotation.
        size: width and height of its picture.
        number: how many labels there are.
        reduced: labels count from 1 and 0 is "none" (`reduce_zero_label`); else from 0 and 255 is.

    Raises:
        UserError: it cannot be read, or is not so.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except Exception as error:  # decoders raise what they like over foreign bytes
        raise UserError(f'annotation {path} cannot be read: {error}; mend or replace it') from error
    if labels.ndim != 2:
        raise UserError(
            f'annotation {path} has {labels.shape[2]} channels: it must be a picture '
            f'of one channel, whose values are labels'
        )
    if labels.shape[::-1] != tuple(size):
        raise UserError(
            f'annotation {path} is {labels.shape[1]} × {labels.shape[0]} pixels, its '
            f'picture {size[0]} × {size[1]}: they must be of one size'
        )
    wrong = labels > number if reduced else (labels >= number) & (labels != UNLABELLED)
    if wrong.any():
        legal = f'0 (none) and 1 to {number}' if reduced else f'0 to {number - 1} and 255 (none)'
        values = ', '.join(map(str, np.unique(labels[wrong])[:5]))
        raise UserError(
            f'annotation {path} has pixels of value {values}: legal are {legal}, one '
            f'for each class; mend it, or set the classes in the config'
        )
    return labels


def pairs_of(dataset: Any) -> list[tuple[Path, Path]]:
    """Each picture and its annotation, by name."""
    root = Path(dataset.get('data_root') or '')
    if not root.is_dir():
        raise UserError(
            f'data root {root} not found: expected there {LAYOUT}. Point --data-root '
            f'to it, or try --mini, which needs no data'
        )
    found = []
    for key, suffix in (('img_path', 'img_suffix'), ('seg_map_path', 'seg_map_suffix')):
        folder, end = root / (dataset.data_prefix.get(key) or ''), setting(dataset, suffix)
        if not folder.is_dir() and any(root.glob('annotations/instances_*.json')):
            raise UserError(
                f'{root} holds COCO, for detectors, but the config is a segmentor: '
                f'expected there {LAYOUT}'
            )
        if not folder.is_dir():
            raise UserError(f'folder {folder} not found: expected below {root}: {LAYOUT}')
        paths = sorted(folder.rglob(f'*{end}'))
        if not paths:
            raise UserError(f'folder {folder} holds no *{end}: expected below {root}: {LAYOUT}')
        found.append({str(path.relative_to(folder))[: -len(end)]: path for path in paths})
    images, annotations = found
    if not dataset.get('ann_file'):  # which lists the pictures to be used
        _check_alone(images, annotations, 'pictures', 'no annotation')
        _check_alone(annotations, images, 'annotations', 'no picture')
    return [(path, annotations[name]) for name, path in images.items() if name in annotations]


def _check_alone(these: dict[str, Path], those: dict[str, Path], what: str, lack: str) -> None:
    alone = [path for name, path in these.items() if name not in those]
    if alone:
        raise UserError(
            f'{len(alone)} of {len(these)} {what} in {alone[0].parent} have {lack} of '
            f'the same name: {", ".join(path.name for path in alone[:5])}'
            f'{" …" if len(alone) > 5 else ""}'
        )


def _type(dataset: Any) -> Any:
    """The data set's class; mmseg without its models takes a second to import."""
    ops.install()
    with quiet():
        import mmseg.datasets  # noqa: F401  (registers its classes)
        from mmseg.registry import DATASETS

    found = DATASETS.get(dataset.type)
    if found is None:
        raise UserError(
            f'mmseg has no data set type {dataset.type!r}: take BaseSegDataset and set '
            f'metainfo.classes, or name the module that defines it in custom_imports'
        )
    return found


def setting(dataset: Any, name: str) -> Any:
    """An argument of the data set: the config's, else its class's default."""
    if name in dataset:
        return dataset[name]
    return next(
        p.default
        for c in _type(dataset).__mro__
        if (p := inspect.signature(c.__init__).parameters.get(name))
    )


def classes_of(dataset: Any) -> tuple[tuple[str, ...], int]:
    """The classes of the config, else those of the data set's class; how many labels on disk."""
    own = tuple(_type(dataset).METAINFO.get('classes') or ())
    wanted = tuple((dataset.get('metainfo') or {}).get('classes') or own)
    if not wanted:
        raise UserError(
            f'data set type {dataset.type} has no classes of its own: set '
            f'metainfo=dict(classes=[…]) in the data sets of the config'
        )
    foreign = [name for name in wanted if own and name not in own]
    if foreign:
        raise UserError(
            f'{dataset.type} has no class {foreign[0]!r}, which the config asks for; '
            f'for classes of your own take type=BaseSegDataset'
        )
    return wanted, len(own or wanted)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as loaded, that is turned upright."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientation
            return image.size[::-1] if turned else image.size
    except Exception as error:  # decoders raise what they like over foreign bytes
        raise UserError(f'image {path} cannot be read: {error}; mend or replace it') from error
