"""Non-maximum suppression for the stand-in in ops.py, and two kinds that group what they drop."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import numpy as np
import torch
import torchvision
from torch import Tensor

from backbone.openmmlab.numerics import wide

FIRST_BOXES = 1024  # that are tried first where only a limited number of boxes will be used

_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar('nms_limit', default=None)


@contextlib.contextmanager
def limited_to(number: int | None) -> Iterator[None]:
    """Let `greedy_nms` return only the `number` highest-scoring boxes that it keeps; None: all."""
    token = _limit.set(number)
    try:
        yield
    finally:
        _limit.reset(token)


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, on a CPU only as far as `limited_to` asks for boxes.

    torchvision's takes quadratic time on one CPU core. A box is only ever dropped for one that
    scores higher, so what is kept of the K highest-scoring boxes does not depend on the others: K
    grows until enough are kept.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2, float32 or float64.
        scores: (N,), of the same type.
        iou_threshold: boxes that overlap a kept one by more than this are dropped.

    Returns:
        (K,) int64 indices of the kept boxes, by descending score, of equal scores the lower index
        first on a CPU.
    """
    limit, number = _limit.get(), FIRST_BOXES
    if limit is None or boxes.device.type != 'cpu' or len(boxes) <= number:
        return torchvision.ops.nms(boxes, scores, iou_threshold)
    order = scores.sort(descending=True, stable=True).indices
    while True:
        first = order[:number]
        kept = first[torchvision.ops.nms(boxes[first], scores[first], iou_threshold)]
        if len(kept) >= limit or number >= len(boxes):
            return kept[:limit]
        number *= 4  # all attempts together cost at most a fifteenth more than the last one


def groups_by_overlap(overlaps: Tensor) -> list[list[int]]:
    """Greedy non-maximum suppression of N boxes that are sorted by score, highest first.

    Args:
        overlaps: (N, N) bool, on any device: whether box i suppresses box j. Only j > i counts.

    Returns:
        One list per kept box: its number, then those it suppressed, ascending. Every number is in
        exactly one list.
    """
    matrix = overlaps.cpu().numpy()  # one step per box, each depends on those before
    left = np.ones(len(matrix), bool)
    groups = []
    for i, row in enumerate(matrix):
        if left[i]:
            suppressed = row & left
            suppressed[: i + 1] = False
            left &= ~suppressed
            groups.append([i, *np.flatnonzero(suppressed).tolist()])
    return groups


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept box that suppresses them, for the ranks of arXiv:1904.04821.

    Args:
        dets: (N, 5) corners x1, y1, x2, y2 and a score, any floating type.
        iou_threshold: boxes that overlap a kept one by this or more belong to its group.

    Returns:
        One list of indices per kept box, by descending score: its own first, then those it
        suppressed, by descending score. Of equal scores the lower index is first.
    """
    dets = dets.to(wide(dets))
    order = dets[:, 4].sort(descending=True, stable=True).indices
    boxes = dets[order, :4]
    # 0 / 0 for two boxes without area, which is no overlap
    overlaps = torchvision.ops.box_iou(boxes, boxes) >= iou_threshold
    numbers = order.tolist()
    return [[numbers[i] for i in group] for group in groups_by_overlap(overlaps)]


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Non-maximum suppression of lane lines by their mean distance, arXiv:2203.10350.

    A line is given by its x at R rows of the image that are equally far apart, from the bottom up.
    Two lines are compared at the rows that both have.

    Args:
        boxes: (N, 5 + R), any floating type: column 2 is the line's first row, as a fraction 0 to 1
            of the R - 1 steps; column 4 the number of its rows, rounded down; columns 5 on are x,
            in pixels. Columns 0, 1 and 3 are unused.
        scores: (N,), any floating type.
        thresh: lines whose mean distance to a kept one is below this, in pixels, are dropped.
        top_k: the number of lines to keep at most.

    Returns:
        keep: (N,) int64 indices of the kept lines, by descending score, then zeros.
        num_to_keep: () int64, how many of `keep` are valid.
        parent: (N,) int64, for each line the number (from 1) in `keep` of the last line close to
            it, or of itself; 0 for those that are close to none because `top_k` was reached.
    """
    # The compiled operator, on CUDA only, is for R = 72. Its rows are compared before they are
    # sorted by score, unlike in CLRNet's own code, which ours follows.
    order = scores.sort(descending=True, stable=True).indices.cpu()
    lines = boxes.detach().to('cpu', wide(boxes))[order]  # one step per line
    count, rows = len(lines), lines.shape[1] - 5
    first = (lines[:, 2] * (rows - 1) + 0.5).long()
    last = (first + lines[:, 4].long() - 1).clamp(max=rows - 1)
    parent = torch.zeros(count, dtype=torch.int64)
    kept: list[int] = []
    left = torch.ones(count, dtype=torch.bool)
    for i in range(count):
        if not left[i]:
            continue
        start, end = torch.maximum(first, first[i]), torch.minimum(last, last[i])
        row = torch.arange(rows)
        shared = (row >= start[:, None]) & (row <= end[:, None])  # N R
        distance = (lines[:, 5:] - lines[i, 5:]).abs().where(shared, 0).sum(1)
        close = (start >= 0) & (end >= start) & (distance < thresh * (end - start + 1))
        close[: i + 1] = False
        left &= ~close
        kept.append(i)
        parent[order[close]] = parent[order[i]] = len(kept)
        if len(kept) == top_k:
            break
    keep = torch.zeros(count, dtype=torch.int64)
    keep[: len(kept)] = order[kept]
    number = torch.tensor(min(top_k, len(kept)))
    return [x.to(boxes.device) for x in (keep, number, parent)]


OPERATORS = (nms_match, line_nms_forward)
