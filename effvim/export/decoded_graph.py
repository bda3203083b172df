"""Networks with decoding and without NMS, for runtimes on phones and small boards.

Such runtimes take one image of one size, and know no NMS, or know another one in each version. The
modules here end where a head's output is a box and the scores of its classes; what is left,
`inference.selection`, is a few lines in any language. There are no sizes that depend on the image
and, but for the axis of the batch, no tensors of more than three axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effvim.export.graph import priors_of


class Normalise(nn.Module):
    """Normalise images and pad them with 0 at the right and the bottom, as one scale and shift.

    Shape: 1 3 H W, 0 to 255, RGB → 1 3 H' W', multiples of `divisor`.

    Args:
        mean: of each channel, in the network's order.
        std: standard deviation of each channel.
        reverse: the network's order is RGB, not BGR as OpenCV reads images.
        divisor: height and width are padded to multiples of it.
        size: height and width of the images.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        reverse: bool,
        divisor: int,
        size: Sequence[int],
    ) -> None:
        super().__init__()
        factor = 1 / torch.tensor(std).view(1, -1, 1, 1)
        self.factor = nn.Buffer(factor)
        self.shift = nn.Buffer(-torch.tensor(mean).view(1, -1, 1, 1) * factor)
        self.reverse = not reverse and len(mean) > 1
        self.margins = (0, -size[1] % divisor, 0, -size[0] % divisor)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if self.reverse:
            x = torch.cat([x[:, i : i + 1] for i in (2, 1, 0)], 1)
        x = x * self.factor + self.shift
        return F.pad(x, self.margins) if any(self.margins) else x


def by_prior(maps: Sequence[Tensor], length: int) -> Tensor:
    """The values of the maps of all levels by prior, in mmdet's order.

    Shape: each 1 A·D H W → 1 N D, D = length.
    """
    return torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, length) for x in maps], 1)


class Decoded(nn.Module):
    """A trained model with its preprocessing, for images of one size.

    Args:
        model: the trained model.
        prepare: the preprocessing of images; identity if the caller does it.

    Attributes:
        names: of the outputs.
    """

    names: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.prepare = prepare


class DecodedDense(Decoded):
    """Detectors with a box at every anchor or point, see `graph.Dense`, without their NMS.

    Shape: images 1 3 H W → boxes 1 N 4 and scores 1 N C of all N priors, and of detectors that
    predict the quality of a box and choose before they multiply by it (ATSS, FCOS) qualities 1 N 1.

    Args:
        model: the trained model.
        prepare: see `Decoded`.
        example: images.

    Attributes:
        priors_by_level: their number on each level, in this order.
    """

    def __init__(self, model: nn.Module, prepare: nn.Module, example: Tensor) -> None:
        super().__init__(model, prepare)
        head = self.model.bbox_head
        self.coder = getattr(head, 'bbox_coder', None)  # YOLOX has none
        outputs = head(self.model.extract_feat(self.prepare(example)))
        self.names = ('boxes', 'scores')
        if len(outputs) > 2 and self.coder is not None:
            self.names += ('qualities',)
        levels = [
            priors_of(head.prior_generator, level, *x.shape[2:])
            for level, x in enumerate(outputs[0])
        ]
        self.priors_by_level = [len(priors) for priors in levels]
        priors = torch.cat(levels)[None]  # 1 N 4, anchors, or 1 N 2, points
        self.with_anchors = priors.shape[-1] == 4 or self.coder is None
        if self.coder is None:  # in its terms a point is the corner of a square as large as a cell
            sides = [
                torch.full((len(p), 2), float(s[0]))
                for p, s in zip(levels, head.prior_generator.strides)
            ]
            self.centre, self.extent = nn.Buffer(priors), nn.Buffer(torch.cat(sides)[None])
        elif self.with_anchors:
            self.centre = nn.Buffer((priors[..., :2] + priors[..., 2:]) * 0.5)
            self.extent = nn.Buffer(priors[..., 2:] - priors[..., :2])
        else:
            self.corners = nn.Buffer(torch.cat([priors, priors], -1))
            self.signs = nn.Buffer(torch.tensor([-1.0, -1, 1, 1]).expand_as(self.corners).clone())
        height, width = example.shape[2:]
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        self.limits = nn.Buffer(limits.expand(1, len(priors[0]), 4).clone())

    def decode(self, deltas: Tensor) -> Tensor:
        """Boxes, clipped to the image. Shape: 1 N 4."""
        if not self.with_anchors:
            boxes = self.corners + deltas * self.signs
        else:
            shift, growth = deltas[..., :2], deltas[..., 2:]
            if self.coder is not None:
                means, stds = self.coder.means, self.coder.stds
                limit = -math.log(16 / 1000)  # mmdet's limit of how much a box may grow or shrink
                shift, growth = shift * stds[0] + means[0], growth * stds[2] + means[2]
                growth = growth.clamp(-limit, limit)
            centre = self.centre + self.extent * shift
            half = self.extent * growth.exp() * 0.5
            boxes = torch.cat([centre - half, centre + half], -1)
        return boxes if self.coder is None else boxes.clamp(min=0).minimum(self.limits)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        logits, deltas, *quality = head(self.model.extract_feat(self.prepare(images)))
        scores = by_prior(logits, head.cls_out_channels).sigmoid()
        boxes = self.decode(by_prior(deltas, 4))
        qualities = [by_prior(x, 1).sigmoid() for x in quality]
        if qualities and self.coder is None:
            return boxes, scores * qualities[0]
        return boxes, scores, *qualities


class WholeImage(Decoded):
    """A segmentor on the whole image.

    Shape: images 1 3 H W → logits 1 C H W, or a label map 1 H W.

    Args:
        model: the trained model.
        prepare: see `Decoded`.
        with_labels: output labels; not every runtime finds the best class.
    """

    def __init__(self, model: nn.Module, prepare: nn.Module, with_labels: bool) -> None:
        super().__init__(model, prepare)
        self.with_labels = with_labels
        self.names = ('label_map',) if with_labels else ('logits',)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prepare(images)
        logits = self.model.decode_head(self.model.extract_feat(x))
        logits = F.interpolate(
            logits, x.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        return logits.argmax(1) if self.with_labels else logits


class Maps(Decoded):
    """The backbone of a model. Shape: images 1 3 H W → maps, each 1 C_i H_i W_i."""

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        self.names = tuple(f'stride_{info.stride}' for info in self.model.backbone.feature_info)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.backbone(self.prepare(images))


class NearestByFactor(TorchFunctionMode):
    """While entered, nearest-neighbour interpolation is written in whole factors.

    Runtimes disagree about any other factor. A map of n cells is enlarged to 2·n − 1 by a factor of
    two, of which the last cell is cut off.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = dict(zip(('input', 'size', 'scale_factor', 'mode'), args)) | (kwargs or {})
        if function is not F.interpolate or given.get('mode', 'nearest') != 'nearest':
            return function(*args, **(kwargs or {}))
        x, size = given['input'], given.get('size')
        if size is None:
            return function(*args, **(kwargs or {}))
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        factors = [-(-wanted // length) for length, wanted in zip(x.shape[2:], sizes)]
        places = [
            [i * length // wanted for i in range(wanted)]
            for length, wanted in zip(x.shape[2:], sizes)
        ]
        by_factor = [[i // factor for i in range(wanted)] for factor, wanted in zip(factors, sizes)]
        if places == by_factor:
            return function(x, scale_factor=[*map(float, factors)], mode='nearest')[
                ..., : sizes[0], : sizes[1]
            ]
        for axis, chosen in enumerate(places, 2):
            x = x.index_select(axis, torch.tensor(chosen))
        return x


class WithFactors(nn.Module):
    """A network whose interpolation is written as in `NearestByFactor`; same shapes.

    Args:
        network: the network.
        as_dict: return outputs by name.
    """

    def __init__(self, network: Decoded, as_dict: bool = False) -> None:
        super().__init__()
        self.network, self.as_dict = network, as_dict

    def forward(self, images: Tensor) -> Any:
        with NearestByFactor():
            outputs = self.network(images)
        if not self.as_dict:
            return outputs
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(self.network.names, outputs))


class Deformable(nn.Module):
    """mmcv's modulated deformable convolution as torchvision's. Shape: 1 C H W → 1 D H' W'.

    They differ in samples that lie exactly on the border of a map.

    Args:
        layer: a `ModulatedDeformConv2dPack`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.conv_offset = layer.conv_offset
        self.conv = torchvision.ops.DeformConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
        )
        self.conv.weight, self.conv.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.conv_offset(x)
        split = predicted.shape[1] // 3
        return self.conv(x, predicted[:, : 2 * split], predicted[:, 2 * split :].sigmoid())


@torch.no_grad()
def network_of(
    kind: str, model: nn.Module, prepare: nn.Module, example: Tensor, with_labels: bool
) -> Decoded:
    """The network of a model for images of one size; layers of the model are replaced in place.

    Args:
        kind: see `export.metadata`.
        model: the trained model.
        prepare: see `Decoded`.
        example: images.
        with_labels: see `WholeImage`.
    """
    from mmcv.ops import ModulatedDeformConv2dPack

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulatedDeformConv2dPack):
            model.set_submodule(name, Deformable(module))
    if kind == 'Backbone':
        return Maps(model, prepare).eval()
    if kind == 'EncoderDecoder':
        return WholeImage(model, prepare, with_labels).eval()
    return DecodedDense(model, prepare, example).eval()
