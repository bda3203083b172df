"""Where predictions and truth part: which class was taken for which, and how surely."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

IOU = 0.5  # from where a box is on an object


class Mistake(NamedTuple):
    """A wrong object, or the wrong pixels of a picture.

    sureness: the object's score; of pixels, the sum of their probabilities over all pixels of the
    picture. found, truth: labels; `number of classes` stands for nothing, None for several.
    """

    sureness: float
    found: int | None
    truth: int | None
    box: tuple[float, ...]  # x1 y1 x2 y2


class Record(NamedTuple):
    """One picture: pairs P 3 of truth, found, count, labels as in `Mistake`; what is wrong."""

    pairs: np.ndarray
    wrong: list[Mistake]


def of_objects(sample: Any, number: int, score_thr: float) -> Record:
    """Compare boxes of mmdet's data sample.

    A found object of score `score_thr` or more takes the truth that it covers best with IoU 0.5 or
    more and that no surer one has taken: first truth of its own class, then, as a mistake, of any.
    One that has none is a mistake, unless it lies on what the annotations ignore.
    """
    truth, found = sample.gt_instances, sample.pred_instances.cpu()
    found = found[found.scores >= score_thr]
    found = found[found.scores.argsort(descending=True, stable=True)]
    iou = _iou(found.bboxes, truth.bboxes)
    same = (found.labels[:, None] == truth.labels.cpu()[None]).numpy()
    partner = np.full(len(found), -1)
    free = np.ones(len(truth), bool)
    for allowed in (same, np.ones_like(same)):
        for i in np.flatnonzero(partner < 0):
            overlap = np.where(allowed[i] & free & (iou[i] >= IOU), iou[i], 0)
            if overlap.any():
                partner[i] = overlap.argmax()
                free[partner[i]] = False
    ignored = sample.get('ignored_instances')
    on_ignored = np.zeros(len(found), bool)
    if ignored is not None and len(ignored):
        on_ignored |= (_iou(found.bboxes, ignored.bboxes, of_first=True) >= IOU).any(1)
    true_labels, labels = truth.labels.tolist(), found.labels.tolist()
    pairs, wrong = [[true_labels[j], number, 1] for j in np.flatnonzero(free)], []
    for i, j in enumerate(partner):
        if j < 0 and on_ignored[i]:
            continue
        true = true_labels[j] if j >= 0 else number
        pairs.append([true, labels[i], 1])
        if true != labels[i]:
            box = tuple(found.bboxes[i].tolist())
            wrong.append(Mistake(float(found.scores[i]), labels[i], true, box))
    return Record(np.array(pairs, np.int64).reshape(-1, 3), wrong)


def _iou(first: Any, second: Any, of_first: bool = False) -> np.ndarray:
    """Of boxes F 4 and S 4, intersection over union F S; or over the first's area."""
    a, b = (torch.as_tensor(getattr(x, 'tensor', x)).cpu().float() for x in (first, second))
    if of_first:
        sides = (
            torch.min(a[:, None, 2:], b[None, :, 2:]) - torch.max(a[:, None, :2], b[None, :, :2])
        ).clamp(min=0)
        return (sides.prod(2) / (a[:, 2:] - a[:, :2]).prod(1)[:, None].clamp(min=1e-6)).numpy()
    return box_iou(a, b).numpy()


def of_pixels(sample: Any, number: int, ignore: int = 255) -> Record:
    """Compare label maps of mmseg's data sample; pixels whose truth is `ignore` do not count."""
    truth, found = (part.data[0].cpu().long() for part in (sample.gt_sem_seg, sample.pred_sem_seg))
    counted = truth != ignore
    codes, counts = np.unique((truth * number + found)[counted].numpy(), return_counts=True)
    pairs = np.stack([codes // number, codes % number, counts], 1)
    wrong = counted & (truth != found)
    sureness = sample.seg_logits.data.cpu()[:, wrong].float().softmax(0).amax(0).sum().item()
    height, width = truth.shape
    mistake = Mistake(sureness / truth.numel(), None, None, (0, 0, width, height))
    return Record(pairs, [mistake] if wrong.any() else [])


def confusion(records: list[Record], size: int) -> np.ndarray:
    """Counts, truth by found, size size."""
    counts = np.zeros((size, size), np.int64)
    for record in records:
        np.add.at(counts, (record.pairs[:, 0], record.pairs[:, 1]), record.pairs[:, 2])
    return counts


def surest(records: list[Record], limit: int) -> list[tuple[int, Mistake]]:
    """The surest mistakes with the numbers of their pictures, at most `limit`."""
    every = [(i, mistake) for i, record in enumerate(records) for mistake in record.wrong]
    return sorted(every, key=lambda pair: -pair[1].sureness)[:limit]
