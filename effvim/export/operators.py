"""NMS and RoIAlign with results of fixed shapes, in PyTorch and as subgraphs of an ONNX file.

mmdet selects boxes by boolean masks around both; the shapes then depend on the image, and tracing
either fails or freezes those of the example image. Here "no box" is a score of 0 instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor


@torch.library.custom_op('effvim::suppress', mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, number: int
) -> Tensor:
    """The scores, set to 0 where NMS drops the box; it keeps at most `number` boxes of each image.

    Shape: boxes B N 4, corners; scores B N → B N.
    """
    kept = torch.zeros_like(scores)
    for i in range(len(scores)):
        valid = (scores[i] > score_threshold).nonzero()[:, 0]
        best = torchvision.ops.nms(boxes[i, valid], scores[i, valid], iou_threshold)[:number]
        kept[i, valid[best]] = scores[i, valid[best]]
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


# torch 2.6 cannot infer the types of lists, hence the schema
@torch.library.custom_op(
    'effvim::pool',
    mutates_args=(),
    schema=(
        '(Tensor[] maps, Tensor rois, Tensor levels, int[] strides, int size, int sampling)'
        ' -> Tensor'
    ),
)
def pool(
    maps: list[Tensor], rois: Tensor, levels: Tensor, strides: list[int], size: int, sampling: int
) -> Tensor:
    """RoIAlign of every RoI on the map of its level.

    Shape: maps each B C H_i W_i; rois R 5, image index and corners; levels R → R C size size.

    Args:
        maps: of all levels.
        rois: regions, in input pixels.
        levels: the level of each region.
        strides: of the maps.
        size: height and width of the result.
        sampling: samples per bin along each axis; 0 for as many as the bin has cells.
    """
    pooled = rois.new_zeros(len(rois), maps[0].shape[1], size, size)
    for level, (x, stride) in enumerate(zip(maps, strides)):
        chosen = (levels == level).nonzero()[:, 0]
        pooled[chosen] = torchvision.ops.roi_align(
            x, rois[chosen], size, 1 / stride, sampling, aligned=True
        )
    return pooled


@pool.register_fake
def _(
    maps: list[Tensor], rois: Tensor, levels: Tensor, strides: list[int], size: int, sampling: int
) -> Tensor:
    return rois.new_empty(rois.shape[0], maps[0].shape[1], size, size)


def translations() -> dict[Callable, Callable]:
    """The ONNX subgraphs of both operators, for `torch.onnx.export`."""
    from onnxscript import opset18

    op: Any = opset18  # it also takes numbers and lists, unlike its type hints say

    def zeros(shape: Any) -> Any:
        return op.Expand(0.0, shape)

    def suppress_onnx(
        boxes: Any, scores: Any, iou_threshold: float, score_threshold: float, number: int
    ) -> Any:
        selected = op.NonMaxSuppression(
            boxes, op.Unsqueeze(scores, [1]), [number], [iou_threshold], [score_threshold]
        )
        indices = op.Gather(selected, [0, 2], axis=1)  # image and box, without the class
        return op.ScatterND(zeros(op.Shape(scores)), indices, op.GatherND(scores, indices))

    def pool_onnx(maps: Any, rois: Any, levels: Any, strides: Any, size: int, sampling: int) -> Any:
        shape = op.Shape(rois, end=1), op.Shape(maps[0], start=1, end=2)
        pooled = zeros(op.Concat(*shape, op.Constant(value_ints=[size, size]), axis=0))
        for level, (x, stride) in enumerate(zip(maps, strides)):
            indices = op.Transpose(op.NonZero(op.Equal(levels, level)), perm=[1, 0])  # M 1
            chosen = op.GatherND(rois, indices)
            image = op.Cast(op.Squeeze(op.Slice(chosen, [0], [1], [1]), [1]), to=7)  # int64
            aligned = op.RoiAlign(
                x,
                op.Slice(chosen, [1], [5], [1]),
                image,
                spatial_scale=1 / stride,
                output_height=size,
                output_width=size,
                sampling_ratio=sampling,
                coordinate_transformation_mode='half_pixel',
            )
            pooled = op.ScatterND(pooled, indices, aligned)
        return pooled

    return {
        torch.ops.effvim.suppress.default: suppress_onnx,
        torch.ops.effvim.pool.default: pool_onnx,
    }
