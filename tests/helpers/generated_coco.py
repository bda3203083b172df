"""Write COCO data sets of made-up objects, as large as the real one or of any other size.

python tests/made_up_coco.py FOLDER [--pictures 118000] [--objects 860000]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

SHAPES = 2000  # outlines that objects are stretched from
POINTS = 15, 0.75  # of an outline: median, and spread of the logarithm; makes 450 MB as in COCO
SIDE = 0.15, 0.9  # of a box as a part of its picture's, likewise
CROWDS = 0.012  # of the objects, as run lengths
PARTS = 0.1  # of the objects are of two polygons
CLASSES = 80


def shapes(rng: np.random.Generator) -> list[np.ndarray]:
    """Outlines N 2 that fill the square from 0 to 1."""
    made = []
    for count in np.exp(rng.normal(np.log(POINTS[0]), POINTS[1], SHAPES)).clip(4, 250).astype(int):
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.6, 1, (count, 1))
        made.append((points - points.min(0)) / np.ptp(points, 0))
    return made


def write_annotations(
    path: Path, pictures: int, objects: int, sizes: list[tuple[int, int]], seed: int = 0
) -> list[str]:
    """A file with `pictures`, whose sizes (width, height) take turns; returns their names."""
    rng = np.random.default_rng(seed)
    outlines = shapes(rng)
    names = [f'{number:012d}.jpg' for number in range(1, pictures + 1)]
    share = rng.exponential(size=pictures)
    owners = rng.choice(pictures, objects, p=share / share.sum())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        file.write('{"info": {"description": "made up"}, "licenses": [], "images": [')
        for i, name in enumerate(names):
            width, height = sizes[i % len(sizes)]
            url = f'http://made-up.invalid/{path.stem}/{name}'
            file.write(
                ', ' * bool(i)
                + json.dumps(
                    {
                        'license': 1,
                        'file_name': name,
                        'coco_url': url,
                        'height': height,
                        'width': width,
                        'date_captured': '2013-11-14 17:02:52',
                        'flickr_url': url,
                        'id': i + 1,
                    }
                )
            )
        file.write('], "annotations": [')
        for i, owner in enumerate(owners.tolist()):
            size = sizes[owner % len(sizes)]
            annotation = one(rng, outlines, size, crowd=rng.random() < CROWDS)
            file.write(
                ', ' * bool(i)
                + json.dumps(
                    {
                        **annotation,
                        'image_id': owner + 1,
                        'id': i + 1,
                        'category_id': int(rng.integers(1, CLASSES + 1)),
                    }
                )
            )
        categories = [
            {'supercategory': 'thing', 'id': i, 'name': f'class {i}'} for i in range(1, CLASSES + 1)
        ]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return names


def one(
    rng: np.random.Generator, outlines: list[np.ndarray], size: tuple[int, int], crowd: bool
) -> dict:
    """An object somewhere in a picture of `size`, width and height."""
    sides = np.exp(rng.normal(np.log(SIDE[0]), SIDE[1], 2)).clip(0.01, 0.95) * size
    corner = rng.uniform(0, 1, 2) * (size - sides)
    (x, y), (width, height) = corner.round(2).tolist(), sides.round(2).tolist()
    if crowd:
        ends = np.sort(rng.choice(size[0] * size[1] - 1, 200, replace=False) + 1)
        counts = np.diff(ends, prepend=0, append=size[0] * size[1])
        outline = {'counts': counts.tolist(), 'size': [size[1], size[0]]}
        area = int(counts[1::2].sum())
    else:
        parts = [(0, 0.45), (0.55, 0.45)] if rng.random() < PARTS else [(0, 1)]
        outline, area = [], round(0.6 * width * height, 4)
        for begin, share in parts:
            points = outlines[rng.integers(SHAPES)] * (width * share, height)
            points = (points + np.array([x + begin * width, y])).round(2)
            outline.append(points.ravel().tolist())
    return {
        'segmentation': outline,
        'area': area,
        'iscrowd': int(crowd),
        'bbox': [x, y, width, height],
    }


def link_pictures(folder: Path, names: list[str], sizes: list[tuple[int, int]]) -> None:
    """As many names for as few pictures as there are sizes."""
    for i, size in enumerate(sizes):
        draw_pictures(folder / f'kind{i}', ['picture.jpg'], size, seed=i)
    for i, name in enumerate(names):
        (folder / name).symlink_to(f'kind{i % len(sizes)}/picture.jpg')


def draw_pictures(folder: Path, names: list[str], size: tuple[int, int], seed: int = 0) -> None:
    """Pictures of `size`, each another one."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def as_large_as_coco(root: Path, pictures: int = 118_000, objects: int = 860_000) -> None:
    """Training and validation as large as those of 2017."""
    sizes = [(640, 480), (480, 640)] * 8  # batches of one picture alone would end in overflow
    for split, counts in (('train2017', (pictures, objects)), ('val2017', (5_000, 36_000))):
        names = write_annotations(root / f'annotations/instances_{split}.json', *counts, sizes)
        link_pictures(root / split, names, sizes)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path)
    parser.add_argument('--pictures', type=int, default=118_000)
    parser.add_argument('--objects', type=int, default=860_000)
    args = parser.parse_args()
    as_large_as_coco(args.root, args.pictures, args.objects)
