"""Check a dataset that was read: classes, splits, duplicates and boxes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from backbone.errors import UserError
from effvim.datasets.boxes import BoxProblem, box_problem, clip_box
from effvim.formats.dataset import AnnotatedImage, Dataset, Instance
from effvim.formats.findings import Findings, Kind


def checked(dataset: Dataset, findings: Findings, clip: bool, merge: bool = False) -> Dataset:
    """Check classes, splits and boxes; return the dataset with every box inside its image.

    Args:
        dataset: as it was read.
        findings: receives the defects and what was assumed.
        clip: clip boxes that leave their image by more than a pixel; otherwise they are a defect.
        merge: the splits will be merged, so that they may share images.

    Raises:
        UserError: two classes share a name, or a split is empty.
    """
    duplicates = any(count > 1 for count in Counter(dataset.classes).values())
    if duplicates or '' in dataset.classes:
        raise UserError(
            f'{dataset.source}: classes {", ".join(map(repr, dataset.classes))}: give each a '
            f'name of its own'
        )
    for split, images in dataset.splits.items():
        if not images and not findings.defects:
            raise UserError(
                f'{dataset.source}: the split {split} has no images: add some or remove the split'
            )
    splits = {split: _images_once(images, findings) for split, images in dataset.splits.items()}
    splits = _without_equal_splits(splits, dataset.source, findings)
    _check_shared(splits, findings, merge)
    return dataset._replace(
        splits={
            split: [_inside(_instances_once(image, findings), findings, clip) for image in images]
            for split, images in splits.items()
        }
    )


def _images_once(images: list[AnnotatedImage], findings: Findings) -> list[AnnotatedImage]:
    """Each image once, with the annotations of all its places in a list."""
    once: dict[Path, AnnotatedImage] = {}
    for image in images:
        path = image.path.resolve()
        if path not in once:
            once[path] = image
            continue
        findings.assume('images are listed more than once: each is used once', image.path)
        if once[path] is not image:
            merged = [*once[path].instances, *image.instances]
            once[path] = once[path]._replace(instances=merged)
    return list(once.values())


def _without_equal_splits(
    splits: dict[str, list[AnnotatedImage]], source: Path, findings: Findings
) -> dict[str, list[AnnotatedImage]]:
    """Of splits that hold the same images, e.g. val and train of a tiny dataset, the first."""
    kept: dict[str, list[AnnotatedImage]] = {}
    seen: dict[frozenset[Path], str] = {}
    order = ('train', 'val', 'test')
    for split in sorted(splits, key=lambda name: order.index(name) if name in order else -1):
        paths = frozenset(image.path.resolve() for image in splits[split])
        if paths and paths in seen:
            findings.note(
                f'{source}: {split} holds the same images as {seen[paths]} and is ignored: effvim '
                f'data split makes a {split} set of its own'
            )
        else:
            seen[paths], kept[split] = split, splits[split]
    return {split: images for split, images in splits.items() if split in kept}


def _check_shared(splits: dict[str, list[AnnotatedImage]], findings: Findings, merge: bool) -> None:
    """Find images that are in several splits; where these are merged, keep each once."""
    split_of: dict[Path, str] = {}
    for split, images in splits.items():
        for image in list(images):
            path = image.path.resolve()
            other = split_of.setdefault(path, split)
            if other == split:
                continue
            if merge:
                findings.assume('images are in several splits: each is used once', image.path)
                images.remove(image)
            else:
                text = f'{image.path} is in {split} and in {other}: remove it from one of them'
                findings.add(Kind.SHARED, text, image.path)


def _instances_once(image: AnnotatedImage, findings: Findings) -> AnnotatedImage:
    """An image without copies of an instance."""
    seen: dict[Any, list[Instance]] = {}
    for instance in image.instances:
        own = instance._replace(origin='', area=None)
        same = seen.setdefault((own.label, own.box), [])
        if own in same:
            findings.assume(
                'annotations are copies of another one: each is used once',
                instance.origin or image.path,
            )
        else:
            same.append(own)
    if sum(map(len, seen.values())) == len(image.instances):
        return image
    kept: list[Instance] = []
    for instance in image.instances:
        if not any(_is_same(instance, other) for other in kept):
            kept.append(instance)
    return image._replace(instances=kept)


def _is_same(one: Instance, other: Instance) -> bool:
    return one._replace(origin='', area=None) == other._replace(origin='', area=None)


def _inside(image: AnnotatedImage, findings: Findings, clip: bool) -> AnnotatedImage:
    """An image with the boxes of its instances clipped to it."""
    instances = []
    for instance in image.instances:
        problem = box_problem(instance.box, image.width, image.height)
        if problem and not (clip and problem is BoxProblem.LEAVES):
            findings.add(Kind.BOX, _describe(image, instance, problem), image.path)
            continue
        box = clip_box(instance.box, image.width, image.height)
        if box != instance.box:
            segmentation = _clip_segmentation(instance.segmentation, image)
            instance = instance._replace(box=box, segmentation=segmentation, area=None)
        instances.append(instance)
    return image._replace(instances=instances)


def _describe(image: AnnotatedImage, instance: Instance, problem: BoxProblem) -> str:
    corners = ', '.join(f'{value:.5g}' for value in instance.box)
    where = f'{instance.origin} ({image.path.name})' if instance.origin else str(image.path)
    text = f'{where}: box {corners} (x1, y1, x2, y2) {problem.value}'
    if problem in (BoxProblem.OUTSIDE, BoxProblem.LEAVES):
        text += f' the image of {image.width} × {image.height} pixels'
    remedy = 'clip such boxes with --clip' if problem is BoxProblem.LEAVES else 'remove it'
    return f'{text}: fix it, or {remedy}'


def _clip_segmentation(segmentation: Any, image: AnnotatedImage) -> Any:
    """Polygons with every point inside the image; run lengths always are."""
    if not isinstance(segmentation, list):
        return segmentation
    size = np.array([image.width, image.height])
    return [
        np.clip(np.reshape(polygon, (-1, 2)), 0, size).ravel().tolist() for polygon in segmentation
    ]
