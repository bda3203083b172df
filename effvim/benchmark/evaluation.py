"""`tools/benchmark.py evaluation`: COCO's twelve numbers by `EffViMCocoMetric` and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.benchmark import timer

from effvim.benchmark import timing

Counter = Callable[[list[dict[str, Any]]], list[float]]

KINDS = {'bbox': 'boxes', 'segm': 'masks'}

HEIGHT, WIDTH, CLASSES = 480, 640, 80

OBJECTS = 7  # on average in an image, as in COCO

CORNERS = np.linspace(0, 2 * np.pi, 16, endpoint=False)


def outlines(boxes: np.ndarray) -> list[dict[str, Any]]:
    """A mask, an ellipse's polygon of 16 corners, for each box; boxes: N × (x, y, w, h)."""
    if not len(boxes):
        return []
    circle = np.stack([np.cos(CORNERS), np.sin(CORNERS)], 1)  # 16 2
    half = boxes[:, None, 2:] / 2
    corners = boxes[:, None, :2] + half + half * circle  # N 16 2
    masks = rle.frPyObjects(corners.reshape(len(boxes), -1).tolist(), HEIGHT, WIDTH)
    return [dict(mask, counts=mask['counts'].decode()) for mask in masks]


def boxes_like(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`boxes`, moved and stretched by about a tenth of their size, inside the image."""
    boxes = boxes + rng.normal(0, 0.1, boxes.shape) * np.tile(boxes[:, 2:], 2)
    return inside(boxes)


def inside(boxes: np.ndarray) -> np.ndarray:
    """Boxes, N × (x, y, w, h), cut at the image's border, at least 4 pixels wide and high."""
    start = np.clip(boxes[:, :2], 0, (WIDTH - 4, HEIGHT - 4))
    size = np.clip(boxes[:, 2:], 4, (WIDTH, HEIGHT) - start)
    return np.concatenate([start, size], 1)


def random_boxes(number: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes of all of COCO's sizes, N × (x, y, w, h)."""
    size = np.exp(rng.normal(4, 1, (number, 1))) * np.exp(rng.normal(0, 0.3, (number, 2)))
    centre = rng.uniform(0, (WIDTH, HEIGHT), (number, 2))
    return inside(np.concatenate([centre - size / 2, size], 1))


def made_up(images: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and detections in COCO's formats, so many detections in each image.

    Four of five objects are found, a tenth of these in another class; all other detections are of
    chance.
    """
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT) for i in range(1, images + 1)],
        categories=[dict(id=i, name=f'class {i}') for i in range(1, CLASSES + 1)],
        annotations=[],
    )
    found = []
    for image in range(1, images + 1):
        boxes = random_boxes(rng.poisson(OBJECTS), rng)
        classes = rng.integers(1, CLASSES + 1, len(boxes))
        crowd = rng.random(len(boxes)) < 0.01
        for box, label, segmentation, iscrowd in zip(boxes, classes, outlines(boxes), crowd):
            truth['annotations'].append(
                dict(
                    id=len(truth['annotations']) + 1,
                    image_id=image,
                    category_id=int(label),
                    bbox=box.tolist(),
                    area=float(rle.area(segmentation)),
                    iscrowd=int(iscrowd),
                    segmentation=segmentation,
                )
            )
        seen = (rng.random(len(boxes)) < 0.8).nonzero()[0][:detections]
        others = random_boxes(detections - len(seen), rng)
        labels = rng.integers(1, CLASSES + 1, detections)
        right = rng.random(len(seen)) < 0.9
        labels[: len(seen)][right] = classes[seen][right]
        all_boxes = np.concatenate([boxes_like(boxes[seen], rng), others])
        scores = rng.random(detections) * np.where(np.arange(detections) < len(seen), 1, 0.5)
        for box, label, score, segmentation in zip(all_boxes, labels, scores, outlines(all_boxes)):
            found.append(
                dict(
                    image_id=image,
                    category_id=int(label),
                    bbox=box.tolist(),
                    score=float(score),
                    segmentation=segmentation,
                )
            )
    return truth, found


def counters(content: dict[str, Any]) -> dict[tuple[str, str], Counter]:
    """For boxes and for masks: `EffViMCocoMetric`, ours, and COCO's own code with its limits."""
    from effvim.console import quiet

    with quiet():
        from mmdet_plugin.metric import EffViMCocoMetric

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'truth.json'
        path.write_text(json.dumps(content))
        metric = EffViMCocoMetric(ann_file=str(path))
        truth, official = metric.ground_truth(), COCO(str(path))
    metric.cat_ids = truth.getCatIds()

    def pycocotools(what: str, found: list[dict[str, Any]]) -> list[float]:
        evaluation = COCOeval(official, official.loadRes(found), what)
        evaluation.params.maxDets = list(metric.proposal_nums)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats.tolist()

    counted: dict[tuple[str, str], Counter] = {}
    for what in KINDS:
        counted[what, 'pycocotools'] = partial(pycocotools, what)
        counted[what, 'ours'] = partial(metric.count, truth, metric=what)
    return counted


def timed(
    count: Counter, found: list[dict[str, Any]], what: str
) -> Callable[[], tuple[float, list[float]]]:
    """Gives, when called, the seconds from detections in memory to numbers, and the numbers."""
    other = 'segmentation' if what == 'bbox' else 'bbox'  # would be taken for what is evaluated

    def run() -> tuple[float, list[float]]:
        copies = [{k: v for k, v in detection.items() if k != other} for detection in found]
        began = timer()
        numbers = count(copies)  # writes into the detections
        return timer() - began, numbers

    return run


def measure(args: Namespace, device: torch.device) -> dict[str, Any]:
    """Count boxes and masks both ways, on a CPU; what the JSON holds of it."""
    content, found = made_up(args.images, args.detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        cases = {key: timed(count, found, key[0]) for key, count in counters(content).items()}
        rounds = timing.interleaved(cases, args.rounds, args.seconds)
    return dict(
        kind='evaluation',
        rounds=len(next(iter(rounds.values()))),
        images=args.images,
        objects=len(content['annotations']),
        detections=len(found),
        cases=[
            summary(name, rounds[what, 'pycocotools'], rounds[what, 'ours'])
            for what, name in KINDS.items()
        ],
    )


def summary(
    what: str, theirs: list[tuple[float, list[float]]], ours: list[tuple[float, list[float]]]
) -> dict[str, Any]:
    """Boxes or masks with their results; `theirs` and `ours`: seconds and numbers by round."""
    seconds = {'pycocotools': [s for s, _ in theirs], 'ours': [s for s, _ in ours]}
    numbers = {'pycocotools': theirs[0][1], 'ours': ours[0][1]}
    return dict(
        what=what,
        seconds=seconds,
        latency_s={name: timing.spread(values) for name, values in seconds.items()},
        ratio=timing.ratio(seconds['pycocotools'], seconds['ours']),
        numbers=numbers,
        largest_difference=max(abs(a - b) for a, b in zip(*numbers.values())),
    )
