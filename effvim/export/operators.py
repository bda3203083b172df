"""NMS, RoIAlign and deformable attention for tracing, in PyTorch and in an ONNX file.

mmdet selects boxes by boolean masks around them; the shapes then depend on the image, and tracing
either fails or freezes those of the example image. Here "no box" is a score of 0 instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


@torch.library.custom_op('effvim::suppress', mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, number: int) -> Tensor:
    """The scores, set to 0 where NMS drops the box; it keeps at most `number` boxes of each image.

    Shape: boxes B N 4, corners; scores B N → B N.
    """
    kept = torch.zeros_like(scores)
    for i in range(len(scores)):
        valid = (scores[i] > 0).nonzero()[:, 0]
        best = torchvision.ops.nms(boxes[i, valid], scores[i, valid], iou_threshold)[:number]
        kept[i, valid[best]] = scores[i, valid[best]]
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores)


@torch.library.custom_op('effvim::soften', mutates_args=())
def soften(
    boxes: Tensor,
    scores: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    number: int,
) -> Tensor:
    """The scores after soft-NMS, Fig. 2 of arXiv:1704.04503, of the `number` best; 0 elsewhere.

    Shape: boxes B N 4, corners, N ≥ 1; scores B N → B N.

    Args:
        boxes: corners.
        scores: 0 for boxes that do not count.
        method: 'linear', 'naive' or 'gaussian', how overlap lowers a score.
        iou_threshold: of the first two methods: from here on scores are lowered.
        sigma: of the Gaussian method.
        min_score: boxes whose score falls below are dropped.
        number: boxes to keep of each image, at most.
    """
    from mmcv.ops import soft_nms

    kept = torch.zeros_like(scores)
    for i in range(len(scores)):
        valid = (scores[i] > 0).nonzero()[:, 0]
        given = boxes[i, valid], scores[i, valid]
        detections, indices = soft_nms(*given, iou_threshold, sigma, min_score, method)
        kept[i, valid[indices[:number]]] = detections[:number, 4]
    return kept


@soften.register_fake
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


# tracing would prove for minutes that what it flattens it can unflatten again
@torch.library.custom_op('effvim::sample', mutates_args=())
def sample(x: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of a map, 0 outside of it.

    Shape: x B C H W; places B P H' W' 2, x y from -1 to 1 → B C P H' W'.
    """
    samples = F.grid_sample(x, places.flatten(1, 2), align_corners=False)
    return samples.unflatten(2, places.shape[1:3])


@sample.register_fake
def _(x: Tensor, places: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], *places.shape[1:4])


@torch.library.custom_op('effvim::join', mutates_args=(), schema='(Tensor[] maps) -> Tensor')
def join(maps: list[Tensor]) -> Tensor:
    """The cells of all maps one after the other.

    Tracing takes their number as one unknown, N: with the sum of the sizes of all maps, which it
    would compare again and again, it takes many times as long.

    Shape: maps each B D H_l W_l → B N D.
    """
    return torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2).contiguous()


@join.register_fake
def _(maps: list[Tensor]) -> Tensor:
    number = torch.library.get_ctx().new_dynamic_size()
    return maps[0].new_empty(maps[0].shape[0], number, maps[0].shape[1])


@torch.library.custom_op(
    'effvim::attend',
    mutates_args=(),
    schema='(Tensor[] maps, Tensor value, Tensor places, Tensor weights) -> Tensor',
)
def attend(maps: list[Tensor], value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted samples of maps, Eq. (3) of arXiv:2010.04159.

    Shape: maps each B … H_l W_l, of which only the size counts; value B N M D, N the sum of all
    H_l · W_l; places B Q M L P 2, x y from 0 to 1; weights B Q M L P → B Q M·D. M heads, Q queries,
    P points.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes = torch.tensor([x.shape[2:] for x in maps])
    return multi_scale_deformable_attn_pytorch(value, sizes, places, weights)


@attend.register_fake
def _(maps: list[Tensor], value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(*places.shape[:2], value.shape[2] * value.shape[3])


# One step of soft-NMS: the best box of each image is kept, and the others' scores are lowered. The
# state has the corners of a box, its score, and the score with which it is kept. The number of the
# step is used, for a zero: OpenVINO takes a step only once if it does not need its input.
SOFT_NMS = """
step (float[b,n,6] state, int64 number) => (float[b,n,6] state_)
{{
    parts = Constant<value_ints = [4, 1, 1]>()
    boxes, left_column, kept_column = Split<axis = 2>(state, parts)
    axis = Constant<value_ints = [2]>()
    left = Squeeze(left_column, axis)
    kept = Squeeze(kept_column, axis)
    zero = Constant<value_float = 0.0>()
    one = Constant<value_float = 1.0>()
    best = ArgMax<axis = 1, keepdims = 1>(left)
    score = GatherElements<axis = 1>(left, best)
    place = Unsqueeze(best, axis)
    box = GatherND<batch_dims = 1>(boxes, place)
    low, high = Split<axis = 2, num_outputs = 2>(boxes)
    low_best, high_best = Split<axis = 2, num_outputs = 2>(box)
    size = Sub(high, low)
    area = ReduceProd<keepdims = 0>(size, axis)
    size_best = Sub(high_best, low_best)
    area_best = ReduceProd<keepdims = 0>(size_best, axis)
    low_both = Max(low, low_best)
    high_both = Min(high, high_best)
    size_both = Sub(high_both, low_both)
    inside = Relu(size_both)
    overlap = ReduceProd<keepdims = 0>(inside, axis)
    areas = Add(area_best, area)
    union = Sub(areas, overlap)
    least = Constant<value_float = 1e-30>()
    divisor = Max(union, least)
    iou = Div(overlap, divisor)
    {factor}
    lower = Mul(left, factor)
    min_score = Constant<value_float = {min_score}>()
    dropped = Less(lower, min_score)
    lowered = Where(dropped, zero, lower)
    shape = Shape(left)
    second = Constant<value_int = 1>()
    length = Gather(shape, second)
    none = Constant<value_int = 0>()
    first = Min(number, none)
    all = Range(first, length, second)
    is_best = Equal(all, best)
    left_ = Where(is_best, zero, lowered)
    newly = Where(is_best, score, zero)
    kept_ = Max(kept, newly)
    left_column_ = Unsqueeze(left_, axis)
    kept_column_ = Unsqueeze(kept_, axis)
    state_ = Concat<axis = 2>(boxes, left_column_, kept_column_)
}}
"""
FACTORS = {
    'linear': 'rest = Sub(one, iou)',
    'naive': 'rest = Identity(zero)',
    'gaussian': """
    square = Mul(iou, iou)
    sigma = Constant<value_float = {sigma}>()
    scaled = Div(square, sigma)
    exponent = Neg(scaled)
    factor = Exp(exponent)""",
}
FROM_THRESHOLD = """
    threshold = Constant<value_float = {iou_threshold}>()
    overlaps = GreaterOrEqual(iou, threshold)
    factor = Where(overlaps, rest, one)"""


def translations() -> dict[Callable, Callable]:
    """The ONNX subgraphs of the operators, for `torch.onnx.export`."""
    import onnx.parser
    from onnxscript import ir, opset18

    op: Any = opset18  # it also takes numbers and lists, unlike its type hints say

    def zeros(shape: Any) -> Any:
        return op.Expand(0.0, shape)

    def grid_sample(x: Any, places: Any) -> Any:
        return op.GridSample(x, places, align_corners=0, mode='bilinear', padding_mode='zeros')

    def suppress_onnx(boxes: Any, scores: Any, iou_threshold: float, number: int) -> Any:
        selected = op.NonMaxSuppression(
            boxes, op.Unsqueeze(scores, [1]), [number], [iou_threshold], [0.0]
        )
        indices = op.Gather(selected, [0, 2], axis=1)  # image and box, without the class
        return op.ScatterND(zeros(op.Shape(scores)), indices, op.GatherND(scores, indices))

    def soften_onnx(
        boxes: Any,
        scores: Any,
        method: str,
        iou_threshold: float,
        sigma: float,
        min_score: float,
        number: int,
    ) -> Any:
        factor = FACTORS[method] + ('' if method == 'gaussian' else FROM_THRESHOLD)
        factor = factor.format(sigma=float(sigma), iou_threshold=float(iou_threshold))
        step = onnx.parser.parse_graph(SOFT_NMS.format(factor=factor, min_score=float(min_score)))
        column = op.Unsqueeze(scores, [2])
        state = op.Concat(boxes, column, zeros(op.Shape(column)), axis=2)
        steps = op.Range(0, number, 1)
        state = op.Scan(state, steps, body=ir.from_proto(step), num_scan_inputs=1)
        return op.Gather(state, 5, axis=2)

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

    def sample_onnx(x: Any, places: Any) -> Any:
        shape = op.Concat(op.Constant(value_ints=[0, -1]), op.Shape(places, start=3), axis=0)
        samples = grid_sample(x, op.Reshape(places, shape))  # B C P·H' W'
        shape = op.Concat(op.Shape(x, end=2), op.Shape(places, start=1, end=4), axis=0)
        return op.Reshape(samples, shape)

    def join_onnx(maps: Any) -> Any:
        rest = op.Constant(value_ints=[-1])
        parts = [op.Reshape(x, op.Concat(op.Shape(x, start=0, end=2), rest, axis=0)) for x in maps]
        return op.Transpose(op.Concat(*parts, axis=2), perm=[0, 2, 1])

    def attend_onnx(maps: Any, value: Any, places: Any, weights: Any) -> Any:
        values = op.Transpose(value, perm=[0, 2, 3, 1])  # B M D N
        width = op.Shape(value, start=3)
        queries, points = op.Shape(places, start=1, end=2), op.Shape(places, start=4)  # Q, P 2
        grid = op.Transpose(op.Sub(op.Mul(places, 2.0), 1.0), perm=[0, 2, 1, 3, 4, 5])
        weights = op.Transpose(weights, perm=[0, 2, 1, 3, 4])  # B M Q L P
        rest, first = op.Constant(value_ints=[-1]), op.Constant(value_ints=[0])
        total = None
        for level, x in enumerate(maps):
            size = op.Shape(x, start=2)  # H W
            last = op.Add(first, op.ReduceProd(size, keepdims=1))
            part = op.Slice(values, first, last, op.Constant(value_ints=[3]))
            samples = grid_sample(  # B·M D Q P
                op.Reshape(part, op.Concat(rest, width, size, axis=0)),
                op.Reshape(
                    op.Gather(grid, level, axis=3), op.Concat(rest, queries, points, axis=0)
                ),
            )
            weight = op.Unsqueeze(op.Gather(weights, level, axis=3), [2])  # B M 1 Q P
            weight = op.Reshape(weight, op.Concat(rest, op.Shape(weight, start=2), axis=0))
            one = op.ReduceSum(op.Mul(samples, weight), [3], keepdims=0)
            total = one if total is None else op.Add(total, one)
            first = last
        batch = op.Shape(value, end=1)
        joined = op.Reshape(total, op.Concat(batch, rest, queries, axis=0))
        return op.Transpose(joined, perm=[0, 2, 1])

    return {
        torch.ops.effvim.suppress.default: suppress_onnx,
        torch.ops.effvim.soften.default: soften_onnx,
        torch.ops.effvim.pool.default: pool_onnx,
        torch.ops.effvim.sample.default: sample_onnx,
        torch.ops.effvim.join.default: join_onnx,
        torch.ops.effvim.attend.default: attend_onnx,
    }
