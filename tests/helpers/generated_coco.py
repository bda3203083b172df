"""Write COCO datasets of random objects, as large as the real one or of any other size.

python -m tests.helpers.generated_coco FOLDER [--images 118000] [--annotations 860000]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

SHAPES = 2000  # outlines that objects are stretched from
POINTS = 15, 0.75  # of an outline: median, and spread of the logarithm; makes 450 MB as in COCO
SIDE = 0.15, 0.9  # of a box, relative to its image, likewise
CROWDS = 0.012  # fraction of the annotations that are crowds, as run lengths
TWO_POLYGONS = 0.1  # fraction of the other annotations that have two polygons
CLASSES = 80


def random_outlines(rng: np.random.Generator) -> list[np.ndarray]:
    """Outlines N 2 that fill the square from 0 to 1."""
    outlines = []
    for count in np.exp(rng.normal(np.log(POINTS[0]), POINTS[1], SHAPES)).clip(4, 250).astype(int):
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.6, 1, (count, 1))
        outlines.append((points - points.min(0)) / np.ptp(points, 0))
    return outlines


def write_annotations(
    path: Path, num_images: int, num_annotations: int, sizes: list[tuple[int, int]], seed: int = 0
) -> list[str]:
    """Write an annotation file; the images take `sizes`, width and height, in turn.

    Returns the images' file names.
    """
    rng = np.random.default_rng(seed)
    outlines = random_outlines(rng)
    names = [f'{number:012d}.jpg' for number in range(1, num_images + 1)]
    weights = rng.exponential(size=num_images)
    owners = rng.choice(num_images, num_annotations, p=weights / weights.sum())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        for i, name in enumerate(names):
            width, height = sizes[i % len(sizes)]
            url = f'http://generated.invalid/{path.stem}/{name}'
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
            annotation = random_annotation(rng, outlines, size, crowd=rng.random() < CROWDS)
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


def random_annotation(
    rng: np.random.Generator, outlines: list[np.ndarray], size: tuple[int, int], crowd: bool
) -> dict:
    """An object somewhere in an image of `size`, width and height."""
    sides = np.exp(rng.normal(np.log(SIDE[0]), SIDE[1], 2)).clip(0.01, 0.95) * size
    corner = rng.uniform(0, 1, 2) * (size - sides)
    (x, y), (width, height) = corner.round(2).tolist(), sides.round(2).tolist()
    if crowd:
        ends = np.sort(rng.choice(size[0] * size[1] - 1, 200, replace=False) + 1)
        counts = np.diff(ends, prepend=0, append=size[0] * size[1])
        segmentation = {'counts': counts.tolist(), 'size': [size[1], size[0]]}
        area = int(counts[1::2].sum())
    else:
        columns = [(0, 0.45), (0.55, 0.45)] if rng.random() < TWO_POLYGONS else [(0, 1)]
        segmentation, area = [], round(0.6 * width * height, 4)
        for left, fraction in columns:
            points = outlines[rng.integers(SHAPES)] * (width * fraction, height)
            points = (points + np.array([x + left * width, y])).round(2)
            segmentation.append(points.ravel().tolist())
    return {
        'segmentation': segmentation,
        'area': area,
        'iscrowd': int(crowd),
        'bbox': [x, y, width, height],
    }


def link_images(folder: Path, names: list[str], sizes: list[tuple[int, int]]) -> None:
    """Draw one image for each of `sizes` and link every name to one of them."""
    for i, size in enumerate(sizes):
        draw_images(folder / f'kind{i}', ['image.jpg'], size, seed=i)
    for i, name in enumerate(names):
        (folder / name).symlink_to(f'kind{i % len(sizes)}/image.jpg')


def draw_images(folder: Path, names: list[str], size: tuple[int, int], seed: int = 0) -> None:
    """Draw an image of `size` for each name; all differ."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def as_large_as_coco(root: Path, num_images: int = 118_000, num_annotations: int = 860_000) -> None:
    """Write training and validation splits as large as those of 2017."""
    sizes = [(640, 480), (480, 640)] * 8  # batches of one repeated image would overflow
    for split, counts in (
        ('train2017', (num_images, num_annotations)),
        ('val2017', (5_000, 36_000)),
    ):
        names = write_annotations(root / f'annotations/instances_{split}.json', *counts, sizes)
        link_images(root / split, names, sizes)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path)
    parser.add_argument('--images', type=int, default=118_000)
    parser.add_argument('--annotations', type=int, default=860_000)
    args = parser.parse_args()
    as_large_as_coco(args.root, args.images, args.annotations)
