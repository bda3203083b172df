"""The embedded data set behind ``--mini``, in COCO's and in ADE20K's own layout on disk.

Any config runs on it without a download. It shows that training learns, nothing more: a score
reached here says nothing about a score on COCO, on ADE20K or on anyone's own pictures.

The same parameters give the same bytes on every machine, see effvim/scenes.py; therefore pictures
are written uncompressed. Whoever changes what is drawn or written raises ``VERSION``, and the data
sets that users have on disk are drawn anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from effvim.datasets.scenes import CLASSES, REGIONS, THINGS, Scene, Style, box_of, draw_scene

VERSION = 1  # of the content and of the layout on disk

EMPTY_SHARE = 0.02  # of the training pictures have no object, as in COCO

ADE_CLASSES = ('ground', *CLASSES)  # labels 1, 2, … of the annotations; 0 is "none" in ADE20K

FIRST_IMAGE_ID = (1, 500_001)  # of training and validation, COCO

MARKER = 'mini.json'  # written last: where it is, the data set is complete

STALE_AFTER = 24 * 3600  # seconds; what a killed process left beside the root goes after that


class _Layout(NamedTuple):
    """How a data set lies on disk.

    mark: what its marker says beside the parameters. pictures: folders that hold one file for each
    training picture, and the same for validation. files: others that must be there. draw: writes
    one split into a root whose folders exist; 0 is training, 1 validation.
    """

    mark: dict[str, str]
    pictures: tuple[tuple[str, ...], tuple[str, ...]]
    files: tuple[str, ...]
    draw: Callable[[Path, int, int, int, int], None]  # root, split, count, size, seed

    def own(self) -> set[str]:
        """Names in the root."""
        paths = (*self.pictures[0], *self.pictures[1], *self.files, MARKER)
        return {path.split('/')[0] for path in paths}


def draw_coco(
    root: Path | str, num_train: int = 512, num_val: int = 128, size: int = 160, seed: int = 0
) -> Path:
    """The data set for detection in `root`, drawn if it is not there yet; returns `root`.

    Makes annotations/instances_{train,val}2017.json and {train,val}2017/*.bmp. `size` is in pixels,
    see draw_scene. A data set drawn earlier with other parameters, or by another version, is
    replaced. Any number of processes may call this at once; killed at any moment, it leaves no
    half-drawn `root`.

    Raises FileExistsError if `root` holds anything that was not drawn here (nothing is deleted),
    ValueError for parameters that cannot be drawn, OSError if the disk does not let us.
    """
    return _draw(_COCO, root, num_train, num_val, size, seed)


def draw_ade(
    root: Path | str, num_train: int = 512, num_val: int = 128, size: int = 160, seed: int = 0
) -> Path:
    """One for segmentation, {images,annotations}/{training,validation}/*.bmp, of larger regions.

    Every pixel has a label, 1 and up for ADE_CLASSES. Otherwise as draw_coco.
    """
    return _draw(_ADE, root, num_train, num_val, size, seed)


def _draw(
    layout: _Layout, root: Path | str, num_train: int, num_val: int, size: int, seed: int
) -> Path:
    if min(num_train, num_val) < 1 or not 64 <= size <= 1024 or not 0 <= seed < 2**32:
        raise ValueError(
            f'num_train={num_train}, num_val={num_val}, size={size}, seed={seed}: at least one '
            'picture each, size within 64..1024 and seed within 0..2**32 - 1 are needed'
        )
    marker = {
        'drawn_by': 'effvim.mini',
        **layout.mark,
        'version': VERSION,
        'num_train': num_train,
        'num_val': num_val,
        'size': size,
        'seed': seed,
    }
    target = Path(root).resolve()
    if _is_complete(layout, target, marker):
        return Path(root)

    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    # Beside the root, so that renaming needs no copy. mkdtemp's own folder is private (mode 0700);
    # the data set inside it gets the usual rights.
    work = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        fresh = work / 'fresh'
        for path in (*layout.pictures[0], *layout.pictures[1], *map(os.path.dirname, layout.files)):
            (fresh / path).mkdir(parents=True, exist_ok=True)
        for split, count in enumerate((num_train, num_val)):
            layout.draw(fresh, split, count, size, seed)
        _write_json(fresh / MARKER, marker)
        _put_in_place(layout, fresh, target, marker, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Path(root)


def _scenes(split: int, count: int, size: int, seed: int, style: Style = THINGS) -> Iterator[Scene]:
    for index in range(count):
        rng = np.random.RandomState([seed, split, index])
        empty = split == 0 and rng.random_sample() < EMPTY_SHARE
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
    mark={},
    pictures=(('train2017',), ('val2017',)),
    files=('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
    draw=_draw_coco_split,
)

_ADE = _Layout(
    mark={'layout': 'ADE20K', 'scenes': 'regions'},
    pictures=(
        ('images/training', 'annotations/training'),
        ('images/validation', 'annotations/validation'),
    ),
    files=(),
    draw=_draw_ade_split,
)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True, separators=(',', ':')) + '\n'
    path.write_bytes(text.encode('ascii'))  # bytes: no system turns the line's end into its own


def _put_in_place(
    layout: _Layout, fresh: Path, target: Path, marker: dict[str, Any], work: Path
) -> None:
    """Rename `fresh` to `target`, unless another process has put the same data set there first."""
    for attempt in range(10):
        if _is_complete(layout, target, marker):
            return
        try:
            if target.exists():
                os.rename(target, work / f'replaced-{attempt}')  # ours, _is_complete has seen to it
            os.rename(fresh, target)
            return
        except OSError as error:  # another process was quicker: look again
            failure = error
    raise failure


def _is_complete(layout: _Layout, target: Path, marker: dict[str, Any]) -> bool:
    """Whether `target` is the data set of `marker`; False if one may be put there.

    Raises FileExistsError if something of somebody else is in the way.
    """
    try:
        names = set(os.listdir(target))
        found = json.loads((target / MARKER).read_bytes()) if MARKER in names else None
    except NotADirectoryError as error:
        raise FileExistsError(f'{target}: a file is where the data set is to be drawn') from error
    except FileNotFoundError:
        return False  # nothing there, or another process is just replacing it
    except ValueError:
        found = None
    ours = isinstance(found, dict) and found.get('drawn_by') == marker['drawn_by']
    if ours and found == marker and _has_all_files(layout, target, marker):
        return True
    foreign = names - layout.own() if ours else names
    if foreign:
        raise FileExistsError(
            f'{target}: the embedded data set cannot be drawn here, the folder holds something '
            f'else ({", ".join(sorted(foreign)[:5])}); name another folder, or move that away'
        )
    return False


def _has_all_files(layout: _Layout, target: Path, marker: dict[str, Any]) -> bool:
    """Whether nobody has deleted a part of the data set; contents are not read."""
    for folders, count in zip(layout.pictures, (marker['num_train'], marker['num_val'])):
        if any(sum(1 for _ in (target / folder).glob('*.bmp')) < count for folder in folders):
            return False
    return all((target / file).is_file() for file in layout.files)


def _prefix(target: Path) -> str:
    return f'.{target.name}-drawing-'


def _remove_stale(target: Path) -> None:
    """Remove what processes killed long ago left beside `target`; younger ones may be at work."""
    for left in target.parent.glob(f'{_prefix(target)}*'):
        try:
            if time.time() - left.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue
