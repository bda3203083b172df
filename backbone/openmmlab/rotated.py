"""Rotated boxes for the stand-in in ops.py, in mmcv's calling convention: overlap, NMS, RoIAlign.

A rotated box is its centre x, y, its width and height before it is turned about the centre, and the
angle in radians. Angles are from the x axis towards the y axis, clockwise on the screen, where not
stated otherwise: mmcv changes the sign of others before it calls an operator.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backbone.openmmlab.numerics import gradients, wide
from backbone.openmmlab.resampling import pool_rois
from backbone.openmmlab.suppression import groups_by_overlap

_PAIRS = 2**17  # to compare at once; each takes about a kilobyte

# --- overlap


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    """Area that each box shares with its partner: (P, 5), (P, 5) → (P,).

    The outline of the first box is followed in the frame of the second, where that is upright, and
    every point outside of the second is moved to its border by clipping x and y. The area within
    the clipped outline, the integral of x dy along it, is that of the intersection: what was
    outside lies on the border, without area. No case is special: nothing jumps where edges of both
    boxes coincide.
    """
    x, y = (first[:, :2] - second[:, :2]).split(1, 1)  # small; coordinates may be large
    cos, sin = second[:, 4:].cos(), second[:, 4:].sin()
    turn = first[:, 4:] - second[:, 4:]
    half_width = first[:, 2:3] / 2 * first.new_tensor([1, -1, -1, 1])  # P 4, from x to y
    half_height = first[:, 3:4] / 2 * first.new_tensor([1, 1, -1, -1])
    corners = torch.stack(
        [
            x * cos + y * sin + half_width * turn.cos() - half_height * turn.sin(),
            y * cos - x * sin + half_width * turn.sin() + half_height * turn.cos(),
        ]
    )[..., None]  # x and y, P 4 1
    edges = corners.roll(-1, 2) - corners
    border = (second[:, 2:4].abs() / 2).T[:, :, None, None]  # x and y, P 1 1
    # where along each edge, 0 to 1, it crosses the border's four lines; 0 / 0 if it is on one
    crossings = torch.cat([(border - corners) / edges, (-border - corners) / edges], 3)
    crossings = torch.cat([*crossings.nan_to_num(0).clamp(0, 1)], 2)  # P 4 4
    ends = crossings.new_tensor([0, 1]).expand(*crossings.shape[:2], 2)
    steps = torch.cat([ends, crossings], 2).sort(2).values  # P 4 6
    clipped_x, clipped_y = (corners + steps * edges).clamp(-border, border)
    middle = (clipped_x[..., 1:] + clipped_x[..., :-1]) / 2  # straight between two steps
    return (middle * clipped_y.diff()).sum((1, 2))


def _overlap(first: Tensor, second: Tensor, of_first: bool = False) -> Tensor:
    """IoU of pairs, or the intersection over the first box's area: (P, 5), (P, 5) → (P,)."""
    areas = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    smaller = torch.minimum(*areas)
    shared = torch.minimum(_intersection(first, second).clamp(min=0), smaller)
    total = areas[0] if of_first else areas[0] + areas[1] - shared
    return torch.where(smaller >= 1e-14, shared / total, 0)  # as mmcv's for boxes without area


def _overlapping(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the pairs of N and M boxes whose outer circles overlap, `_PAIRS` at a time."""
    radii = [boxes[:, 2:4].norm(dim=1) / 2 for boxes in (first, second)]
    rows = max(_PAIRS // max(len(second), 1), 1)
    for start in range(0, len(first), rows):
        part = slice(start, start + rows)
        distances = torch.cdist(
            first[part, :2], second[:, :2], compute_mode='donot_use_mm_for_euclid_dist'
        )  # the way by matrix products is inaccurate far from the origin
        close = distances < radii[0][part, None] + radii[1]
        i, j = close.nonzero(as_tuple=True)
        yield from zip((i + start).split(_PAIRS), j.split(_PAIRS))


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool
) -> None:
    """Overlap of rotated boxes, the skew IoU of arXiv:1703.01086, into `ious`.

    Args:
        boxes1: (N, 5), any floating type. boxes2: (M, 5), with `aligned` (N, 5).
        ious: (N · M,), one row of boxes2 per box of boxes1, or with `aligned` (N,); overwritten.
        mode_flag: 0 for intersection over union, 1 for intersection over the area of boxes1.
        aligned: compare each box only with the one of the same number.

    A box with an area below 1e-14 overlaps nothing.
    """
    dtype = wide(boxes1, boxes2)
    first, second = boxes1.to(dtype), boxes2.to(dtype)
    if aligned:
        ious.copy_(_overlap(first, second, mode_flag == 1).view_as(ious))
        return
    matrix = first.new_zeros(len(first), len(second))
    for i, j in _overlapping(first, second):
        matrix[i, j] = _overlap(first[i], second[j], mode_flag == 1)
    ious.copy_(matrix.view_as(ious))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes, arXiv:1703.01086.

    Args:
        dets_sorted: (N, 5), highest-scoring first, any floating type; further columns are unused.
        order: (N,) int64 index of each of these boxes in the caller's order.
        iou_threshold: boxes that overlap a kept one by more than this are dropped. mmcv's operator
            for the CPU, unlike its others and its documentation, also drops those at it.
        dets, scores, labels, multi_label: unused. With labels as without, mmcv's operators for CPU
            and CUDA suppress across all labels.

    Returns:
        (K,) int64 indices of the kept boxes, by descending score.
    """
    boxes = dets_sorted[:, :5].to(wide(dets_sorted))
    overlaps = torch.zeros(len(boxes), len(boxes), dtype=torch.bool, device=boxes.device)
    for i, j in _overlapping(boxes, boxes):
        later = i < j
        i, j = i[later], j[later]
        overlaps[i, j] = _overlap(boxes[i], boxes[j]) > iou_threshold
    kept = [group[0] for group in groups_by_overlap(overlaps)]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


# --- RoIAlign


def _roi_align_rotated(
    input: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Tensor:
    dtype = wide(input, rois)
    image, boxes = rois[:, 0].long(), rois[:, 1:].to(dtype)
    centres, sizes = boxes[:, :2] * spatial_scale, boxes[:, 2:4] * spatial_scale
    if aligned:
        centres = centres - 0.5
        if (sizes < 0).any():
            raise RuntimeError('rotated RoIs have a negative width or height')
    else:
        sizes = sizes.clamp(min=1)
    angles = boxes[:, 4] if clockwise else -boxes[:, 4]

    def locate(numbers: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        values = (*centres.T, *sizes.T, angles.cos(), angles.sin())
        x, y, width, height, cos, sin = (t[numbers].view(-1, 1, 1, 1, 1) for t in values)
        right, below = (across - 0.5) * width, (down - 0.5) * height  # before it is turned
        return y + right * sin + below * cos, x + right * cos - below * sin

    input = input.to(dtype)
    return pool_rois(input, image, sizes.flip(1), output_size, sampling_ratio, locate)


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """RoIAlign (arXiv:1703.06870) in rotated RoIs (arXiv:1703.01086); `output` receives the result.

    Args:
        input: (B, C, H, W), any floating type and memory format.
        rois: (N, 6) image index, centre x, y, width, height, angle, in a type of its own; N may be
            0.
        output: (N, C, pooled_height, pooled_width), overwritten.
        spatial_scale: cells of `input` per unit of `rois`.
        sampling_ratio: samples per bin and axis, 0 for as many as the bin has cells.
        aligned: sample at cell centres (shift by half a cell). Otherwise width and height are at
            least one cell.
        clockwise: the angle is from the x axis towards the y axis; False for the other direction.

    Raises:
        RuntimeError: `aligned`, and a width or height is negative.
    """
    size = (pooled_height, pooled_width)
    output.copy_(
        _roi_align_rotated(input, rois, size, spatial_scale, sampling_ratio, aligned, clockwise)
    )


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Gradient of `roi_align_rotated_forward` with respect to `input`, into `grad_input`.

    Args:
        grad_output: (N, C, pooled_height, pooled_width), any floating type.
        grad_input: (B, C, H, W), overwritten.

    The others, and what is raised, as in `roi_align_rotated_forward`.
    """
    size = (pooled_height, pooled_width)
    dtype = wide(grad_output, grad_input)
    (gradient,) = gradients(  # linear in the input: any of that shape will do
        lambda x: _roi_align_rotated(
            x, rois, size, spatial_scale, sampling_ratio, aligned, clockwise
        ),
        (grad_input.to(dtype),),
        grad_output,
    )
    grad_input.copy_(gradient)


OPERATORS = (
    box_iou_rotated,
    nms_rotated,
    roi_align_rotated_forward,
    roi_align_rotated_backward,
)
