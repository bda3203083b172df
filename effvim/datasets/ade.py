"""ADE20K images and label maps: find what is wrong with them before anything is trained.

Directories and names are checked without mmseg, and before the run. The content of a label map is
checked whenever one is loaded (`check_labels`), and for a few of them before the run, since what is
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
from effvim.console import quiet
from effvim.images import find_files, image_size

LAYOUT = (
    'images/training/*.jpg, annotations/training/*.png, images/validation/*.jpg, '
    'annotations/validation/*.png'
)

NUM_PROBED = 32  # label maps of each split that are read before the run

UNLABELLED = 255  # mmseg's label of pixels that are ignored


def check_all(loaders: Sequence[Any]) -> tuple[str, ...]:
    """Check the datasets of several loaders; return the classes, which must agree.

    Raises:
        UserError: as `check`, or the datasets have different classes.
    """
    classes = [check(loader.dataset) for loader in loaders]
    if any(other != classes[0] for other in classes):
        raise UserError(
            'the datasets of the config have different classes: set the same '
            'metainfo.classes in each of them, or none'
        )
    return classes[0]


def check(dataset: Any) -> tuple[str, ...]:
    """Check one dataset config (ADE20KDataset and the like) against the disk; return its classes.

    Raises:
        UserError: a directory is absent or holds another dataset, images and label maps do not pair
            up, the classes are unknown, or a label map that was read is wrong.
    """
    pairs = find_pairs(dataset)
    classes, num_labels = classes_of(dataset)
    reduce_zero_label = setting(dataset, 'reduce_zero_label')
    for image, label_map in pairs[:: -(-len(pairs) // NUM_PROBED)]:
        check_labels(label_map, image_size(image), num_labels, reduce_zero_label)
    return classes


def check_labels(
    path: Path, size: tuple[int, int], num_labels: int, reduce_zero_label: bool
) -> np.ndarray:
    """Read a label map and check that it has one legal label for each pixel of its image.

    Args:
        path: the label map.
        size: width and height of its image.
        num_labels: how many labels there are.
        reduce_zero_label: labels count from 1 and 0 is "none"; otherwise from 0, and 255 is "none".

    Returns:
        The labels, H W.

    Raises:
        UserError: it cannot be read, or is wrong.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
        if labels.dtype == bool:  # of one bit
            labels = labels.astype(np.uint8)
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        raise UserError(
            f'label map {path} cannot be read: {error}; repair or replace it'
        ) from error
    if labels.ndim != 2:
        raise UserError(
            f'label map {path} has {labels.shape[2]} channels: it must be an image '
            f'of one channel, whose values are labels'
        )
    if labels.shape[::-1] != tuple(size):
        raise UserError(
            f'label map {path} has {labels.shape[1]} × {labels.shape[0]} pixels, its '
            f'image {size[0]} × {size[1]}: they must be of one size'
        )
    wrong = (
        labels > num_labels
        if reduce_zero_label
        else (labels >= num_labels) & (labels != UNLABELLED)
    )
    if wrong.any():
        legal = (
            f'0 (none) and 1 to {num_labels}'
            if reduce_zero_label
            else f'0 to {num_labels - 1} and 255 (none)'
        )
        values = ', '.join(map(str, np.unique(labels[wrong])[:5]))
        raise UserError(
            f'label map {path} has pixels of value {values}: legal are {legal}, one '
            f'for each class; fix it, or set the classes in the config'
        )
    return labels


def find_pairs(dataset: Any) -> list[tuple[Path, Path]]:
    """The images of a dataset config, each with the label map of the same name.

    Raises:
        UserError: a directory is absent, empty or holds another dataset, or a file has no partner;
            where a list says which images are used, none has one.
    """
    root = Path(dataset.get('data_root') or '')
    if not root.is_dir():
        raise UserError(
            f'data root {root} not found: expected there {LAYOUT}. Point --data-root '
            f'to it, or try --mini, which needs no data'
        )
    by_name: list[dict[str, Path]] = []
    for key, suffix in (('img_path', 'img_suffix'), ('seg_map_path', 'seg_map_suffix')):
        folder, end = root / (dataset.data_prefix.get(key) or ''), setting(dataset, suffix)
        if not folder.is_dir() and any(root.glob('annotations/instances_*.json')):
            raise UserError(
                f'{root} holds COCO, for detectors, but the config is a segmentor: '
                f'expected there {LAYOUT}'
            )
        if not folder.is_dir():
            raise UserError(f'directory {folder} not found: expected below {root}: {LAYOUT}')
        paths = [path for path in find_files(folder, None) if path.name.endswith(end)]
        if not paths:
            raise UserError(f'directory {folder} holds no *{end}: expected below {root}: {LAYOUT}')
        by_name.append({str(path.relative_to(folder))[: -len(end)]: path for path in paths})
    images, label_maps = by_name
    if not dataset.get('ann_file'):  # which lists the images to be used
        _check_partners(images, label_maps, 'images', 'no label map')
        _check_partners(label_maps, images, 'label maps', 'no image')
    pairs = [(path, label_maps[name]) for name, path in images.items() if name in label_maps]
    if not pairs:
        raise UserError(
            f'no image in {root} has a label map of the same name, e.g. '
            f'{next(iter(images.values())).name} and {next(iter(label_maps.values())).name}: set '
            f'img_suffix and seg_map_suffix in the datasets of the config'
        )
    return pairs


def _check_partners(files: dict[str, Path], others: dict[str, Path], what: str, lack: str) -> None:
    alone = [path for name, path in files.items() if name not in others]
    if alone:
        raise UserError(
            f'{len(alone)} of {len(files)} {what} in {alone[0].parent} have {lack} of '
            f'the same name: {", ".join(path.name for path in alone[:5])}'
            f'{" …" if len(alone) > 5 else ""}'
        )


def classes_of(dataset: Any) -> tuple[tuple[str, ...], int]:
    """The classes of a dataset config or else of its class, and the number of labels on disk.

    Raises:
        UserError: there are none, or the config asks for some that the dataset does not have.
    """
    own = tuple(_dataset_class(dataset).METAINFO.get('classes') or ())
    wanted = tuple((dataset.get('metainfo') or {}).get('classes') or own)
    if not wanted:
        raise UserError(
            f'dataset type {dataset.type} has no classes of its own: set '
            f'metainfo=dict(classes=[…]) in the datasets of the config'
        )
    foreign = [name for name in wanted if own and name not in own]
    if foreign:
        raise UserError(
            f'{dataset.type} has no class {foreign[0]!r}, which the config asks for; '
            f'for classes of your own use type=BaseSegDataset'
        )
    return wanted, len(own or wanted)


def setting(dataset: Any, name: str) -> Any:
    """An argument of a dataset config, or else the default of its class."""
    if name in dataset:
        return dataset[name]
    return next(
        parameter.default
        for base in _dataset_class(dataset).__mro__
        if (parameter := inspect.signature(base.__init__).parameters.get(name))
    )


def _dataset_class(dataset: Any) -> Any:
    """The class that a dataset config names. mmseg without its models takes a second to import."""
    from backbone.openmmlab import ops

    ops.install()  # before anything of mmcv's users is imported
    with quiet():
        import mmseg.datasets  # noqa: F401  (registers its classes)
        from mmseg.registry import DATASETS

    dataset_class = DATASETS.get(dataset.type)
    if dataset_class is None:
        raise UserError(
            f'mmseg has no dataset type {dataset.type!r}: use BaseSegDataset and set '
            f'metainfo.classes, or name the module that defines it in custom_imports'
        )
    return dataset_class
