"""Masks of objects in the original image, from what exported files give; as mmdet makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(
    logits: Tensor, stride: int, scale: Sequence[float], size: Sequence[int], threshold: float
) -> Tensor:
    """Resize logits of masks to the original image, as mmdet does. Shape: K h w → K H W, bool.

    Args:
        logits: of the masks in the network's input.
        stride: how many pixels of the input a logit stands for, along each axis.
        scale: of the input, x and y, relative to the original.
        size: height and width of the original.
        threshold: of the probability.
    """
    masks = torch.zeros(len(logits), *size, dtype=torch.bool)
    for mask, x in zip(masks, logits):  # one at a time: an original may be large
        x = F.interpolate(x[None, None], scale_factor=stride, mode='bilinear')
        full = [math.ceil(side * (1 / by)) for side, by in zip(x.shape[2:], reversed(scale))]
        x = F.interpolate(x, full, mode='bilinear')[0, 0, : size[0], : size[1]]
        mask[: x.shape[0], : x.shape[1]] = x.sigmoid() > threshold
    return masks


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """Put masks of boxes into whole images. Shape: masks K h w, boxes K 4 → K H W, bool.

    Args:
        masks: of the objects in their boxes, each value for the centre of a cell.
        boxes: x1 y1 x2 y2.
        size: height and width of the images.
        threshold: pixels with a value from there on belong to the object.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for whole, mask, box in zip(pasted, masks, boxes):  # one at a time: images may be large
        first = (box[:2].floor() - 1).clamp(min=0)
        last = (box[2:].ceil() + 1).minimum(torch.tensor(size[::-1]))
        if not (first < last).all():  # beyond the image, or not finite
            continue
        low, high = first.int().tolist(), last.int().tolist()
        columns, rows = (
            # the centres of pixels in the box, which goes from -1 to 1
            (torch.arange(start, stop) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * 2 - 1
            for axis, (start, stop) in enumerate(zip(low, high))
        )
        grid = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), -1)
        grid[grid.isinf()] = 0  # of boxes without an extent
        patch = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        bottom, right = low[1] + len(rows), low[0] + len(columns)
        whole[low[1] : bottom, low[0] : right] = patch >= threshold
    return pasted
