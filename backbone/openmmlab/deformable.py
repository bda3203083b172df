"""Deformable convolution and attention for the stand-in in ops.py, in mmcv's calling convention.

Results are written into the tensors passed in; the backward functions run the forward again under
autograd. All arithmetic is in at least float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor

from backbone.openmmlab.numerics import gradients, wide

_FAR = -1e6  # an offset that leads outside of any map


def _convolve(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    sizes: dict[str, Any],
) -> Tensor:
    """torchvision's deformable convolution; `mask` is None for version 1, without modulation.

    torchvision reads the groups from the weight's shape and the deformable ones from the offset's.
    """
    input, offset, weight = (x.to(wide(x)) for x in (input, offset, weight))
    return torchvision.ops.deform_conv2d(
        input,
        _move_outside(offset, input.shape[2:], weight.shape[2:], sizes),
        weight,
        None if bias is None else bias.to(weight.dtype),
        stride=sizes['stride'],
        padding=sizes['padding'],
        dilation=sizes['dilation'],
        mask=None if mask is None else mask.to(input.dtype),
    )


def _move_outside(
    offset: Tensor, size: Sequence[int], kernel: Sequence[int], sizes: dict[str, Any]
) -> Tensor:
    """Move every sample that mmcv's kernel takes as 0 far outside the map, without a gradient.

    mmcv samples 0, and gives the offset no gradient, at positions ≤ −1 or ≥ the map's size and at
    those that are not finite. torchvision crashes at NaN, and exactly at −1 it has a gradient.

    Shape: (B, 2 · groups · kernel_h · kernel_w, H', W'), `size` and `kernel` height and width.
    """
    samples = offset.unflatten(1, (-1, kernel[0], kernel[1], 2))  # B G kh kw 2 H' W'
    inside: Any = True
    for axis in (0, 1):  # y, x
        position = samples[:, :, :, :, axis]  # B G kh kw H' W'
        cells, places = (
            torch.arange(position.shape[dim], device=offset.device).view(-1, *[1] * (5 - dim))
            for dim in (2 + axis, 4 + axis)
        )
        start = places * sizes['stride'][axis] - sizes['padding'][axis]
        position = position + (start + cells * sizes['dilation'][axis])  # integers before rounding
        inside = inside & (position > -1) & (position < size[axis])  # False for NaN
    return torch.where(inside.unsqueeze(4), samples, _FAR).flatten(1, 4)


def _first_values(x: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """The first values of each image's memory as a map; mmcv reads larger maps like this.

    DyHead passes the offsets of a finer level to a strided convolution. Shape: (B, C, H, W) →
    (B, channels, *size).

    Raises:
        RuntimeError: there are fewer values: mmcv would read past their end.
    """
    count = channels * size[0] * size[1]
    if x[0].numel() < count:
        raise RuntimeError(
            f'offset or mask of shape {tuple(x.shape)} is smaller than the {channels} × {size[0]} '
            f'× {size[1]} values that the convolution reads'
        )
    return x.flatten(1)[:, :count].unflatten(1, (channels, *size))


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution, Eq. (1) of arXiv:1811.11168; `output` receives the result.

    Args:
        input: (B, C, H, W). weight: (D, C / group, kernel_h, kernel_w). bias: (D,).
        offset: (B, 2 · deformable_group · kernel_h · kernel_w, H', W'), y before x, in cells; of a
            larger map the first values of each image are read.
        mask: (B, deformable_group · kernel_h · kernel_w, H', W'), or larger as `offset`.
        output: (B, D, H', W'), overwritten. ones, columns: unused.
    """
    sizes = dict(
        stride=(stride_h, stride_w), padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w)
    )
    size = output.shape[2:]
    output.copy_(
        _convolve(
            input,
            _first_values(offset, 2 * deformable_group * kernel_h * kernel_w, size),
            _first_values(mask, deformable_group * kernel_h * kernel_w, size),
            weight,
            bias if with_bias else None,
            sizes,
        ).view_as(output)
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of `modulated_deform_conv_forward`, into the tensors `grad_…`."""
    sizes = dict(
        stride=(stride_h, stride_w), padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w)
    )
    size, points = grad_output.shape[2:], deformable_group * kernel_h * kernel_w
    grads = gradients(
        lambda x, o, m, w: _convolve(
            x, _first_values(o, 2 * points, size), _first_values(m, points, size), w, None, sizes
        ),
        (input, offset, mask, weight),
        grad_output,
    )
    for target, grad in zip((grad_input, grad_offset, grad_mask, grad_weight), grads):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution, Eq. (2) of arXiv:1703.06211; `output` receives the result.

    Shapes as in `modulated_deform_conv_forward`; columns, ones and im2col_step are unused.
    """
    sizes = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    output.copy_(_convolve(input, offset, None, weight, None, sizes).view_as(output))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of `deform_conv_forward` with respect to `input` and `offset`."""
    sizes = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    grads = gradients(
        lambda x, o: _convolve(x, o, None, weight, None, sizes), (input, offset), grad_output
    )
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of `deform_conv_forward` with respect to `weight`, times `scale`."""
    sizes = dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))
    (gradient,) = gradients(
        lambda w: _convolve(input, offset, None, w, None, sizes), (grad_weight,), grad_output
    )  # linear in the weight: any weight of that shape will do
    grad_weight.copy_(gradient * scale)


def _attend(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's own implementation in plain PyTorch, Eq. (3) of arXiv:2010.04159."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    dtype = wide(value)
    return multi_scale_deformable_attn_pytorch(
        value.to(dtype), shapes, locations.to(dtype), weights.to(dtype)
    )


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention; returns (B, Q, heads · D), in the type of `value`.

    Args:
        value: (B, sum of H_l · W_l, heads, D). value_spatial_shapes: (L, 2), height and width.
        sampling_locations: (B, Q, heads, L, points, 2), x and y from 0 to 1.
        attention_weights: (B, Q, heads, L, points). The others are unused.
    """
    return _attend(value, value_spatial_shapes, sampling_locations, attention_weights).to(value)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of `ms_deform_attn_forward`, into the tensors `grad_…`."""
    grads = gradients(
        lambda v, s, w: _attend(v, value_spatial_shapes, s, w),
        (value, sampling_locations, attention_weights),
        grad_output,
    )
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        target.copy_(grad)


OPERATORS = (
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
)
