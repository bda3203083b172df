"""The synthetic dataset behind ``--mini``, in COCO's and in ADE20K's own layout on disk.

Any config runs on it without a download. It shows that training learns, nothing more: a score
reached here says nothing about a score on COCO, on ADE20K or on anyone's own images.

The same parameters give the same bytes on every machine, see effvim/datasets/scenes.py; therefore
images are written uncompressed. Whoever changes what is drawn or written raises ``VERSION``; the
datasets that users have on disk are then drawn anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from effvim.datasets.scenes import (
    CLASSES,
    REGIONS,
    SMALL_OBJECTS,
    Scene,
    Style,
    box_of,
    draw_scene,
)
from effvim.files import atomic_directory

VERSION = 1  # of the content and of the layout on disk

EMPTY_FRACTION = 0.02  # of the training images have no object, as in COCO

# Labels 1, 2, … of the label maps; 0 is "none" in ADE20K. "ground" is the background: a name in
# checkpoints and reports that exist, hence not changed.
ADE_CLASSES = ('ground', *CLASSES)

FIRST_IMAGE_ID = (1, 500_001)  # of training and validation, COCO

MARKER = 'mini.json'  # written last: where it is, the dataset is complete

DRAWN_BY = 'effvim.mini'  # in the marker of every dataset drawn here, those of earlier versions too


class _Layout(NamedTuple):
    """How a dataset lies on disk.

    Attributes:
        marker: what its marker says in addition to the parameters.
        images: directories with one file for each training image, and likewise for validation.
        files: others that must be there.
        draw: writes one split, 0 for training and 1 for validation, into a root whose directories
            exist; called with root, split, number of images, size and seed.
    """

    marker: dict[str, str]
    images: tuple[tuple[str, ...], tuple[str, ...]]
    files: tuple[str, ...]
    draw: Callable[[Path, int, int, int, int], None]

    def own_names(self) -> set[str]:
        """Names in the root."""
        paths = (*self.images[0], *self.images[1], *self.files, MARKER)
        return {path.split('/')[0] for path in paths}


def draw_coco(
    root: Path | str, num_train: int = 512, num_val: int = 128, size: int = 160, seed: int = 0
) -> Path:
    """Draw the dataset for detection into `root` unless it is there already; return `root`.

    Makes annotations/instances_{train,val}2017.json and {train,val}2017/*.bmp. A dataset that was
    drawn with other parameters, or by another version, is replaced. Any number of processes may
    call this at once; killed at any moment, it leaves no half-drawn `root`.

    Args:
        root: the dataset's directory.
        num_train: number of training images.
        num_val: number of validation images.
        size: in pixels, see `draw_scene`.
        seed: random seed.

    Raises:
        FileExistsError: `root` holds anything that was not drawn here; nothing is deleted.
        ValueError: parameters that cannot be drawn.
        OSError: the disk does not allow it.
    """
    return _draw(_COCO, root, num_train, num_val, size, seed)


def draw_ade(
    root: Path | str, num_train: int = 512, num_val: int = 128, size: int = 160, seed: int = 0
) -> Path:
    """Draw the dataset for segmentation into `root`, with larger regions; else as `draw_coco`.

    Makes {images,annotations}/{training,validation}/*.bmp. Every pixel has a label, 1 and up for
    ADE_CLASSES.
    """
    return _draw(_ADE, root, num_train, num_val, size, seed)


def _draw(
    layout: _Layout, root: Path | str, num_train: int, num_val: int, size: int, seed: int
) -> Path:
    if min(num_train, num_val) < 1 or not 64 <= size <= 1024 or not 0 <= seed < 2**32:
        raise ValueError(
            f'num_train={num_train}, num_val={num_val}, size={size}, seed={seed}: at least one '
            'image each, size within 64..1024 and seed within 0..2**32 - 1 are needed'
        )
    marker = {
        'drawn_by': DRAWN_BY,
        **layout.marker,
        'version': VERSION,
        'num_train': num_train,
        'num_val': num_val,
        'size': size,
        'seed': seed,
    }
    target = Path(root).resolve()

    def is_done() -> bool:
        return _is_complete(layout, target, marker)

    if not is_done():
        with atomic_directory(target, is_done) as new:
            for path in (*layout.images[0], *layout.images[1], *map(os.path.dirname, layout.files)):
                (new / path).mkdir(parents=True, exist_ok=True)
            for split, count in enumerate((num_train, num_val)):
                layout.draw(new, split, count, size, seed)
            _write_json(new / MARKER, marker)
    return Path(root)


def _scenes(
    split: int, count: int, size: int, seed: int, style: Style = SMALL_OBJECTS
) -> Iterator[Scene]:
    for index in range(count):
        rng = np.random.RandomState([seed, split, index])
        empty = split == 0 and rng.random_sample() < EMPTY_FRACTION
        yield draw_scene(rng, size, empty, style)


def _draw_coco_split(root: Path, split: int, count: int, size: int, seed: int) -> None:
    name = ('train2017', 'val2017')[split]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(_scenes(split, count, size, seed), FIRST_IMAGE_ID[split]):
        file_name = f'{image_id:012d}.bmp'
        Image.fromarray(scene.image).save(root / name / file_name, 'BMP')
        height, width = scene.image.shape[:2]
        images.append({'id': image_id, 'file_name': file_name, 'height': height, 'width': width})
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            segmentation = {'size': [height, width], 'counts': code['counts'].decode('ascii')}
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': list(box_of(mask)),
                    'area': int(mask.sum()),
                    'segmentation': segmentation,
                    'iscrowd': 0,
                }
            )
    categories = [
        {'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, 1)
    ]
    # the old word: the bytes of version 1 stay the same
    info = {'description': f'EfficientViM embedded data set, {name}, seed {seed}'}
    content = {
        'info': info,
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': categories,
    }
    _write_json(root / 'annotations' / f'instances_{name}.json', content)


def _draw_ade_split(root: Path, split: int, count: int, size: int, seed: int) -> None:
    name = ('training', 'validation')[split]
    for index, scene in enumerate(_scenes(split, count, size, seed, REGIONS), 1):
        labels = np.full(scene.image.shape[:2], ADE_CLASSES.index('ground') + 1, np.uint8)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            labels[mask] = ADE_CLASSES.index(CLASSES[label]) + 1
        file_name = f'ADE_{("train", "val")[split]}_{index:08d}.bmp'
        Image.fromarray(scene.image).save(root / 'images' / name / file_name, 'BMP')
        Image.fromarray(labels).save(root / 'annotations' / name / file_name, 'BMP')


_COCO = _Layout(
    marker={},
    images=(('train2017',), ('val2017',)),
    files=('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
    draw=_draw_coco_split,
)

_ADE = _Layout(
    marker={'layout': 'ADE20K', 'scenes': 'regions'},
    images=(
        ('images/training', 'annotations/training'),
        ('images/validation', 'annotations/validation'),
    ),
    files=(),
    draw=_draw_ade_split,
)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True, separators=(',', ':')) + '\n'
    path.write_bytes(text.encode('ascii'))  # bytes: no system turns the line's end into its own


def _is_complete(layout: _Layout, target: Path, marker: dict[str, Any]) -> bool:
    """Whether `target` is the dataset of `marker`; False if one may be put there.

    Raises:
        FileExistsError: something that was not drawn here is in the way.
    """
    try:
        names = set(os.listdir(target))
        present = json.loads((target / MARKER).read_bytes()) if MARKER in names else None
    except NotADirectoryError as error:
        raise FileExistsError(
            f'{target}: a file is where the synthetic dataset is to be drawn'
        ) from error
    except FileNotFoundError:
        return False  # nothing there, or another process is just replacing it
    except ValueError:
        present = None
    ours = isinstance(present, dict) and present.get('drawn_by') == DRAWN_BY
    if ours and present == marker and _has_all_files(layout, target, marker):
        return True
    foreign = names - layout.own_names() if ours else names
    if foreign:
        raise FileExistsError(
            f'{target}: the synthetic dataset cannot be drawn here, the directory holds something '
            f'else ({", ".join(sorted(foreign)[:5])}); name another directory, or move that away'
        )
    return False


def _has_all_files(layout: _Layout, target: Path, marker: dict[str, Any]) -> bool:
    """Whether nobody has deleted files of the dataset; contents are not read."""
    for folders, count in zip(layout.images, (marker['num_train'], marker['num_val'])):
        if any(sum(1 for _ in (target / folder).glob('*.bmp')) < count for folder in folders):
            return False
    return all((target / file).is_file() for file in layout.files)
