"""Compare predictions with the ground truth: the confusion matrix and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

IOU = 0.5  # from which a box matches an object


class Mistake(NamedTuple):
    """A wrong object, or the wrong pixels of an image.

    Attributes:
        score: the object's; for pixels, their probabilities summed and divided by the number of
            pixels of the image.
        predicted: label; the number of classes stands for the background, None for several labels.
        true: label, likewise.
        box: x1 y1 x2 y2.
    """

    score: float
    predicted: int | None
    true: int | None
    box: tuple[float, ...]


class Comparison(NamedTuple):
    """Predictions of one image compared with its ground truth.

    Attributes:
        pairs: P 3, int64: true label, predicted label (as in `Mistake`), how often.
        mistakes: what is wrong in it.
    """

    pairs: np.ndarray
    mistakes: list[Mistake]


# `supervision.ConfusionMatrix` matches by overlap instead of by score, so that it counts another
# box than COCO's metric does as the right one; it knows no ignored regions, and it does not tell
# which predictions are the wrong ones, which the list of mistakes needs.
def compare_objects(sample: Any, num_classes: int, score_thr: float) -> Comparison:
    """Compare the boxes of mmdet's data sample.

    In the order of their scores, predictions of at least `score_thr` match the object that they
    overlap most, with IoU 0.5 or more, and that is still free: first objects of their own class,
    then, as a mistake, of any. A prediction without a match is a mistake, unless it lies on a
    region that the annotations ignore.
    """
    ground_truth, predicted = sample.gt_instances, sample.pred_instances.cpu()
    predicted = predicted[predicted.scores >= score_thr]
    predicted = predicted[predicted.scores.argsort(descending=True, stable=True)]
    iou = _overlap(predicted.bboxes, ground_truth.bboxes)
    same_class = (predicted.labels[:, None] == ground_truth.labels.cpu()[None]).numpy()
    match = np.full(len(predicted), -1)
    free = np.ones(len(ground_truth), bool)
    for allowed in (same_class, np.ones_like(same_class)):
        for i in np.flatnonzero(match < 0):
            overlap = np.where(allowed[i] & free & (iou[i] >= IOU), iou[i], 0)
            if overlap.any():
                match[i] = overlap.argmax()
                free[match[i]] = False
    is_ignored = np.zeros(len(predicted), bool)
    ignored = sample.get('ignored_instances')
    if ignored is not None and len(ignored):
        is_ignored |= (_overlap(predicted.bboxes, ignored.bboxes, of_first=True) >= IOU).any(1)
    true_labels, labels = ground_truth.labels.tolist(), predicted.labels.tolist()
    pairs, mistakes = [[true_labels[j], num_classes, 1] for j in np.flatnonzero(free)], []
    for i, j in enumerate(match):
        if j < 0 and is_ignored[i]:
            continue
        true = true_labels[j] if j >= 0 else num_classes
        pairs.append([true, labels[i], 1])
        if true != labels[i]:
            box = tuple(predicted.bboxes[i].tolist())
            mistakes.append(Mistake(float(predicted.scores[i]), labels[i], true, box))
    return Comparison(np.array(pairs, np.int64).reshape(-1, 3), mistakes)


def compare_pixels(sample: Any, num_classes: int, ignore_label: int = 255) -> Comparison:
    """Compare the label maps of mmseg's data sample; pixels of `ignore_label` do not count."""
    true, predicted = (
        pixels.data[0].cpu().long() for pixels in (sample.gt_sem_seg, sample.pred_sem_seg)
    )
    counted = true != ignore_label
    codes, counts = np.unique((true * num_classes + predicted)[counted].numpy(), return_counts=True)
    pairs = np.stack([codes // num_classes, codes % num_classes, counts], 1)
    wrong = counted & (true != predicted)
    score = sample.seg_logits.data.cpu()[:, wrong].float().softmax(0).amax(0).sum().item()
    height, width = true.shape
    mistake = Mistake(score / true.numel(), None, None, (0, 0, width, height))
    return Comparison(pairs, [mistake] if wrong.any() else [])


def confusion_matrix(comparisons: Sequence[Comparison], size: int) -> np.ndarray:
    """Counts by true label (rows) and predicted label (columns). Shape: size size, int64."""
    counts = np.zeros((size, size), np.int64)
    for comparison in comparisons:
        true, predicted, number = comparison.pairs.T
        np.add.at(counts, (true, predicted), number)
    return counts


def worst_mistakes(comparisons: Sequence[Comparison], limit: int) -> list[tuple[int, Mistake]]:
    """The mistakes of highest score, at most `limit`, each with the index of its image."""
    mistakes = [(i, mistake) for i, one in enumerate(comparisons) for mistake in one.mistakes]
    return sorted(mistakes, key=lambda pair: -pair[1].score)[:limit]


def _overlap(first: Any, second: Any, of_first: bool = False) -> np.ndarray:
    """IoU of boxes F 4 and S 4, or the fraction of the first's area inside. Shape: F S."""
    a, b = (torch.as_tensor(getattr(x, 'tensor', x)).cpu().float() for x in (first, second))
    if not of_first:
        return box_iou(a, b).numpy()
    sides = torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])
    areas = (a[:, 2:] - a[:, :2]).prod(1)[:, None].clamp(min=1e-6)
    return (sides.clamp(min=0).prod(2) / areas).numpy()
