"""Layers in operators that ONNX has and whose sizes tracing does not freeze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvim.export.operators import attend, sample


class AdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` for maps of any size, as two matrix products.

    Shape: B C H W → B C n n.

    Args:
        number: of bins along each axis, n.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def weights(self, length: int) -> Tensor:
        """The weight of each position in each bin; bins may overlap. Shape: n length."""
        bins, positions = torch.arange(self.number)[:, None], torch.arange(length)
        begin = bins * length // self.number
        end = ((bins + 1) * length + self.number - 1) // self.number
        inside = ((positions >= begin) & (positions < end)).float()
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x.shape[2]) @ x @ self.weights(x.shape[3]).T


class DeformableConvolution(nn.Module):
    """mmcv's modulated deformable convolution, Eq. (1) of arXiv:1811.11168, on sampled maps.

    G groups of channels have their own offsets; a kernel has P cells.

    Shape: B C H W → B D H' W'.

    Args:
        layer: a `ModulatedDeformConv2dPack`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, (height, width) = self.layer, x.shape[2:]
        rows, columns = layer.kernel_size
        groups, cells = layer.deform_groups, rows * columns
        predicted = layer.conv_offset(x)  # B 3·G·P H' W'
        size = predicted.shape[2:]
        split = 2 * groups * cells
        offset = predicted[:, :split].unflatten(1, (groups, cells, 2)).flatten(0, 1)
        mask = predicted[:, split:].sigmoid().unflatten(1, (groups, cells)).flatten(0, 1)

        cell = torch.arange(cells).view(-1, 1, 1)
        places = []  # y and x of all samples in the map, each B·G P H' W'
        for axis, index in enumerate((cell // columns, cell % columns)):
            start = torch.arange(size[axis]) * layer.stride[axis] - layer.padding[axis]
            start = start.view((-1, 1) if axis == 0 else (1, -1))
            places.append(offset[:, :, axis] + (start + index * layer.dilation[axis]))
        grid = torch.stack([(2 * places[1] + 1) / width - 1, (2 * places[0] + 1) / height - 1], -1)
        samples = sample(x.unflatten(1, (groups, -1)).flatten(0, 1), grid)  # B·G C/G P H' W'
        samples = (samples * mask[:, None]).reshape(x.shape[0], x.shape[1] * cells, *size)
        weight = layer.weight.flatten(1)[..., None, None]
        return F.conv2d(samples, weight, layer.bias, groups=layer.groups)


class DeformableAttention(nn.Module):
    """mmcv's multi-scale deformable attention, Eq. (3) of arXiv:2010.04159, for maps of any size.

    mmcv reads the sizes of the L maps from a tensor, which tracing cannot follow; here they are
    those of given maps.

    Shape: query B Q D, value B N D → B Q D. M heads, P points on each map.

    Args:
        layer: a `MultiScaleDeformableAttention`, batch first.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        maps: Sequence[Tensor],
        **_: Any,
    ) -> Tensor:
        """Attend.

        Args:
            query: B Q D.
            value: B N D, of all maps one after the other.
            query_pos: is added to the query. B Q D.
            reference_points: x y, or centre and size, from 0 to 1. B Q L 2 or 4.
            spatial_shapes: width and height of each map. L 2.
            maps: of which only the size counts, each B … H W.
        """
        layer, identity = self.layer, query
        query = query + query_pos
        heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
        offsets = layer.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
        weights = layer.attention_weights(query).unflatten(2, (heads, -1)).softmax(-1)
        places = reference_points[:, :, None, :, None]  # B Q 1 L 1 2 or 4
        if reference_points.shape[-1] == 2:
            places = places + offsets / spatial_shapes[:, None]
        else:
            places = places[..., :2] + offsets / points * places[..., 2:] * 0.5
        values = layer.value_proj(value).unflatten(2, (heads, -1))
        attended = attend(list(maps), values, places, weights.unflatten(3, (levels, points)))
        return layer.output_proj(attended) + identity


def replace_layers(model: nn.Module) -> nn.Module:
    """Replace layers by those of this module, in place, and return the model."""
    from mmcv.ops import ModulatedDeformConv2dPack, MultiScaleDeformableAttention

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and type(module.output_size) is int:
            model.set_submodule(name, AdaptivePool(module.output_size))  # ONNX has one bin only
        elif isinstance(module, ModulatedDeformConv2dPack):
            model.set_submodule(name, DeformableConvolution(module))
        elif isinstance(module, MultiScaleDeformableAttention):
            model.set_submodule(name, DeformableAttention(module))
    return model
