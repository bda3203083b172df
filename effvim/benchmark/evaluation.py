"""Benchmark of the COCO evaluation: the twelve metrics by `EffViMCocoMetric` and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
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
from effvim.benchmark.settings import EvaluationBenchmark
from effvim.console import quiet

Evaluate = Callable[[list[dict[str, Any]]], list[float]]

IOU_TYPES = {'bbox': 'boxes', 'segm': 'masks'}
HEIGHT, WIDTH, CLASSES = 480, 640, 80
OBJECTS = 7  # mean number in an image, as in COCO
ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)  # of a mask's corners


def masks_of(boxes: np.ndarray) -> list[dict[str, Any]]:
    """An elliptic mask for each box, run-length encoded.

    Shape: boxes N 4, each x, y, width, height.
    """
    if not len(boxes):
        return []
    circle = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)  # 16 2
    half = boxes[:, None, 2:] / 2
    corners = boxes[:, None, :2] + half + half * circle  # N 16 2
    masks = rle.frPyObjects(corners.reshape(len(boxes), -1).tolist(), HEIGHT, WIDTH)
    return [dict(mask, counts=mask['counts'].decode()) for mask in masks]


def jitter(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Boxes moved and stretched by about a tenth of their size, inside the image. Shape: N 4."""
    boxes = boxes + rng.normal(0, 0.1, boxes.shape) * np.tile(boxes[:, 2:], 2)
    return clip(boxes)


def clip(boxes: np.ndarray) -> np.ndarray:
    """Boxes clipped to the image, at least 4 pixels wide and high. Shape: N 4."""
    start = np.clip(boxes[:, :2], 0, (WIDTH - 4, HEIGHT - 4))
    size = np.clip(boxes[:, 2:], 4, (WIDTH, HEIGHT) - start)
    return np.concatenate([start, size], 1)


def random_boxes(number: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes of sizes distributed as COCO's. Shape: N 4."""
    size = np.exp(rng.normal(4, 1, (number, 1))) * np.exp(rng.normal(0, 0.3, (number, 2)))
    centre = rng.uniform(0, (WIDTH, HEIGHT), (number, 2))
    return clip(np.concatenate([centre - size / 2, size], 1))


def generate(images: int, detections: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random annotations and detections in COCO's formats.

    Four of five objects are detected, a tenth of these as another class; the remaining detections
    are false positives.

    Args:
        images: number of images.
        detections: number in each image.
    """
    rng = np.random.default_rng(0)
    ground_truth: dict[str, Any] = dict(
        images=[dict(id=i, width=WIDTH, height=HEIGHT) for i in range(1, images + 1)],
        categories=[dict(id=i, name=f'class {i}') for i in range(1, CLASSES + 1)],
        annotations=[],
    )
    predictions = []
    for image in range(1, images + 1):
        boxes = random_boxes(rng.poisson(OBJECTS), rng)
        classes = rng.integers(1, CLASSES + 1, len(boxes))
        crowd = rng.random(len(boxes)) < 0.01
        for box, label, segmentation, iscrowd in zip(boxes, classes, masks_of(boxes), crowd):
            ground_truth['annotations'].append(
                dict(
                    id=len(ground_truth['annotations']) + 1,
                    image_id=image,
                    category_id=int(label),
                    bbox=box.tolist(),
                    area=float(rle.area(segmentation)),
                    iscrowd=int(iscrowd),
                    segmentation=segmentation,
                )
            )
        detected = (rng.random(len(boxes)) < 0.8).nonzero()[0][:detections]
        others = random_boxes(detections - len(detected), rng)
        labels = rng.integers(1, CLASSES + 1, detections)
        correct = rng.random(len(detected)) < 0.9
        labels[: len(detected)][correct] = classes[detected][correct]
        all_boxes = np.concatenate([jitter(boxes[detected], rng), others])
        scores = rng.random(detections) * np.where(np.arange(detections) < len(detected), 1, 0.5)
        for box, label, score, segmentation in zip(all_boxes, labels, scores, masks_of(all_boxes)):
            predictions.append(
                dict(
                    image_id=image,
                    category_id=int(label),
                    bbox=box.tolist(),
                    score=float(score),
                    segmentation=segmentation,
                )
            )
    return ground_truth, predictions


def evaluators(ground_truth: dict[str, Any]) -> dict[tuple[str, str], Evaluate]:
    """Both implementations, by IoU type and name: 'ours' is `EffViMCocoMetric`, the other COCO's.

    pycocotools gets the limits on detections that `EffViMCocoMetric` uses.
    """
    with quiet():
        from mmdet_plugin.metric import EffViMCocoMetric

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'ground_truth.json'
        path.write_text(json.dumps(ground_truth))
        metric = EffViMCocoMetric(ann_file=str(path))
        own_api, official_api = metric.ground_truth(), COCO(str(path))
    metric.cat_ids = own_api.getCatIds()

    def pycocotools(iou_type: str, predictions: list[dict[str, Any]]) -> list[float]:
        evaluation = COCOeval(official_api, official_api.loadRes(predictions), iou_type)
        evaluation.params.maxDets = list(metric.proposal_nums)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats.tolist()

    implementations: dict[tuple[str, str], Evaluate] = {}
    for iou_type in IOU_TYPES:
        implementations[iou_type, 'pycocotools'] = partial(pycocotools, iou_type)
        implementations[iou_type, 'ours'] = partial(metric.count, own_api, metric=iou_type)
    return implementations


def sampler(
    evaluate: Evaluate, predictions: list[dict[str, Any]], iou_type: str
) -> Callable[[], tuple[float, list[float]]]:
    """A function that returns the seconds of an evaluation, and the metrics."""
    unused = 'segmentation' if iou_type == 'bbox' else 'bbox'  # pycocotools would evaluate it

    def sample() -> tuple[float, list[float]]:
        copies = [{k: v for k, v in item.items() if k != unused} for item in predictions]
        began = timer()
        metrics = evaluate(copies)  # writes into the predictions
        return timer() - began, metrics

    return sample


def measure(settings: EvaluationBenchmark, device: torch.device) -> dict[str, Any]:
    """Run the benchmark, on a CPU; returns the content of its JSON file."""
    ground_truth, predictions = generate(settings.images, settings.detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        samplers = {
            key: sampler(evaluate, predictions, key[0])
            for key, evaluate in evaluators(ground_truth).items()
        }
        rounds = timing.interleave(samplers, settings.rounds, settings.seconds)
    return dict(
        kind='evaluation',
        rounds=len(next(iter(rounds.values()))),
        images=settings.images,
        objects=len(ground_truth['annotations']),
        detections=len(predictions),
        cases=[
            summarize(name, rounds[iou_type, 'pycocotools'], rounds[iou_type, 'ours'])
            for iou_type, name in IOU_TYPES.items()
        ],
    )


def summarize(
    name: str, theirs: list[tuple[float, list[float]]], ours: list[tuple[float, list[float]]]
) -> dict[str, Any]:
    """The results for boxes or masks; `theirs` and `ours`: seconds and metrics of each round."""
    seconds = {'pycocotools': [s for s, _ in theirs], 'ours': [s for s, _ in ours]}
    numbers = {'pycocotools': theirs[0][1], 'ours': ours[0][1]}
    return dict(
        what=name,
        seconds=seconds,
        latency_s={name: timing.spread(values) for name, values in seconds.items()},
        ratio=timing.ratio(seconds['pycocotools'], seconds['ours']),
        numbers=numbers,
        largest_difference=max(abs(a - b) for a, b in zip(*numbers.values())),
    )
