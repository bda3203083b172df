"""The layers that the stem, the blocks and the downsampling are made of.

Activations are B C H W. No convolution here has a bias (squeeze-excite excepted): a BN follows, or,
inside the mixer, nothing does.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.fx
import torch.nn.functional as F
from timm import layers
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from .linear import InferenceLinear, linear

__all__ = ['FFN', 'ConvNorm', 'Depthwise', 'Downsample', 'LayerNorm2d', 'Pointwise1d', 'Stem']

Layer = TypeVar('Layer', nn.Conv2d, InferenceLinear)


def fixed(value: Tensor) -> nn.Parameter:
    """Return a copy of `value` as a parameter that is never trained."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)


def with_kernel(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    """Copy a convolution or linear layer with another weight and bias, which are never trained."""
    layer = copy.deepcopy(layer)
    layer.weight, layer.bias = fixed(weight), fixed(bias)
    return layer


class ScaledProduct(torch.autograd.Function):
    """x (s ⊙ W)ᵀ + b, whose backward pass scales W again instead of keeping a scaled copy.

    Shape: x L C, W D C, s D, b D → L D.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight * scale[:, None], bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight, scale = ctx.saved_tensors
        product = grad.mT @ x.to(grad.dtype)  # D C, the gradient of s ⊙ W; autocast narrows `grad`
        return (
            grad @ (weight * scale[:, None]).to(grad.dtype),
            product * scale[:, None],
            (product * weight).sum(1),
            grad.sum(0),
        )


@torch.fx.wrap
def scaled_product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """x (s ⊙ W)ᵀ + b, see `ScaledProduct`; without a backward pass, and traced, a plain product."""
    if torch.is_grad_enabled() and not torch.jit.is_tracing():
        return ScaledProduct.apply(x, weight, scale, bias)
    return linear(x, weight * scale[:, None], bias)


def on_positions(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply `f`, L C → L D, to all positions of a map, without copying channels-last memory.

    Shape: B C H W → B D H W.
    """
    x = x.permute(0, 2, 3, 1)  # B H W C
    return as_map(f(x.flatten(0, 2)), x)


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Put positions back where those of `like` are. Shape: L D, B H W C → B D H W."""
    return tokens.view(like.shape[0], like.shape[1], like.shape[2], -1).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution → BN → optionally ReLU. Odd kernels keep the size at stride 1.

    While BN normalises with its stored statistics, the two are computed as the one convolution
    that they equal; its kernel is a function of the trained parameters, with their gradients.

    Shape: B C H W → B D ⌈H/stride⌉ ⌈W/stride⌉.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    @property
    def foldable(self) -> bool:
        """Whether what follows the convolution is a fixed scale and bias per channel.

        False while BN normalises with the statistics of the batch, and where another tool has put
        another layer, e.g. group norm, in its place.
        """
        norm = self.norm
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            return not norm.training and norm.running_var is not None
        return isinstance(norm, (nn.Identity, FrozenBatchNorm2d))

    def affine(self, gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the scale and bias per channel that BN applies; with a gate those of gate · BN."""
        norm: Any = self.norm
        weight, bias = getattr(norm, 'weight', None), getattr(norm, 'bias', None)
        if weight is None:
            weight = torch.ones_like(self.conv.weight[:, 0, 0, 0])
        if bias is None:
            bias = torch.zeros_like(weight)
        if gate is not None:
            weight, bias = gate * weight, gate * bias
        if isinstance(norm, nn.Identity):
            scale, mean = weight, torch.zeros_like(weight)
        else:
            scale, mean = weight * torch.rsqrt(norm.running_var + norm.eps), norm.running_mean
        if self.conv.bias is not None:  # of a tool that has folded BN into it
            mean = mean - self.conv.bias
        return scale, bias - scale * mean

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution that equals convolution and BN."""
        scale, bias = self.affine()
        return self.conv.weight * scale[:, None, None, None], bias

    def forward(self, x: Tensor) -> Tensor:
        if not self.foldable:
            return self.act(self.norm(self.conv(x)))
        weight, bias = self.fold()
        return self.act(
            F.conv2d(x, weight, bias, self.conv.stride, self.conv.padding, groups=self.conv.groups)
        )

    def fuse(self) -> nn.Module:
        """Return the equivalent for inference, with a folded kernel if it can be folded."""
        if not self.foldable:
            return self
        return nn.Sequential(with_kernel(self.conv, *self.fold()), self.act)


class Depthwise(ConvNorm):
    """3×3 depthwise ConvNorm f with its input: x + f(x), or with a gate (1 − gate)·x + gate·f(x).

    Shape: B C H W, gate C → B C H W.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, groups=channels)

    def fold(self, gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution that equals all of it; its centre carries x."""
        scale, bias = self.affine(gate)
        keep = torch.ones_like(scale) if gate is None else 1 - gate
        centre = F.pad(keep[:, None, None, None], (1, 1, 1, 1))
        return torch.addcmul(centre, self.conv.weight, scale[:, None, None, None]), bias

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        if self.foldable:
            return F.conv2d(x, *self.fold(gate), padding=1, groups=x.shape[1])
        y = self.norm(self.conv(x))
        return x + y if gate is None else x + gate[:, None, None] * (y - x)

    def fuse(self, gate: Tensor | None = None) -> nn.Module:
        """Return the equivalent for inference, with a folded kernel if it can be folded."""
        if not self.foldable:
            return self if gate is None else Gated(self, gate)
        return with_kernel(self.conv, *self.fold(gate))


class Gated(nn.Module):
    """A layer that cannot be folded, with the gate that it is called with, for inference."""

    def __init__(self, layer: nn.Module, gate: Tensor) -> None:
        super().__init__()
        self.layer, self.gate = layer, fixed(gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.gate)


class Pointwise(ConvNorm):
    """1×1 ConvNorm, folded into one matrix product. Shape: B C H W → B D H W."""

    def __init__(self, in_channels: int, out_channels: int, relu: bool = False) -> None:
        super().__init__(in_channels, out_channels, relu=relu)

    def product(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """BN(conv(x)), or gate · BN(conv(x)), on tokens. Shape: x L C, gate D → L D."""
        return scaled_product(x, self.conv.weight.flatten(1), *self.affine(gate))

    def forward(self, x: Tensor) -> Tensor:
        if not self.foldable:
            return super().forward(x)
        return on_positions(lambda tokens: self.act(self.product(tokens)), x)  # in place, no view

    def as_linear(self, gate: Tensor | None = None) -> InferenceLinear:
        """Return `product` as a layer for inference, with a folded kernel."""
        scale, bias = self.affine(gate)
        layer = InferenceLinear(self.conv.in_channels, self.conv.out_channels, device='meta')
        return with_kernel(layer, self.conv.weight.flatten(1) * scale[:, None], bias)

    def fuse(self) -> nn.Module:
        """Return the equivalent for inference, with a folded kernel if it can be folded."""
        return OnPositions(self.as_linear(), self.act) if self.foldable else self


class OnPositions(nn.Sequential):
    """Layers on all positions of a map, see `on_positions`. Shape: B C H W → B D H W."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # B H W C
        y = x.flatten(0, 2)
        for layer in self:
            y = layer(y)
        return as_map(y, x)


class Pointwise1d(nn.Module):
    """1×1 convolution over tokens. Shape: B … C → B … D.

    Its weight is stored as that of a Conv1d, (D, C, 1), as published checkpoints have it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.conv.weight[..., 0], None)


class Stem(nn.Module):
    """Four 3×3 convolutions of stride 2.

    Shape: B 3 H W → (the third one's map, B C/2 ⌈H/8⌉ ⌈W/8⌉; the last one's, B C ⌈H/16⌉ ⌈W/16⌉).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [in_channels, channels // 8, channels // 4, channels // 2, channels]
        self.conv = nn.Sequential(
            *(ConvNorm(widths[i], widths[i + 1], 3, stride=2, relu=i < 3) for i in range(4))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *convs, last = self.conv
        for conv in convs:
            x = conv(x)
        return x, last(x)

    def fuse(self) -> FusedStem:
        """Return the equivalent for inference, with folded kernels."""
        convs: Any = self.conv
        return FusedStem([conv.fuse() for conv in convs])


class FusedStem(nn.Module):
    """`Stem` with folded kernels; shapes as there."""

    def __init__(self, convs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.finer = nn.Sequential(*convs[:-1])
        self.last = convs[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.finer(x)
        return x, self.last(x)


class FFN(nn.Module):
    """Two 1×1 convolutions with BN, ReLU between, blended: (1 − gate)·x + gate·f(x).

    Shape: B C H W, gate C → B C H W.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Pointwise(channels, hidden, relu=True)
        self.fc2 = Pointwise(hidden, channels)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        if not (self.fc1.foldable and self.fc2.foldable):
            return x + gate[:, None, None] * (self.fc2(self.fc1(x)) - x)

        def blend(tokens: Tensor) -> Tensor:
            hidden = self.fc1.act(self.fc1.product(tokens))
            y = self.fc2.product(hidden, gate).to(tokens.dtype)  # autocast keeps tokens in float32
            return y.addcmul_(1 - gate, tokens)

        return on_positions(blend, x)

    def fuse(self, gate: Tensor) -> nn.Module:
        """Return the equivalent for inference, with folded kernels if they can be folded."""
        if not (self.fc1.foldable and self.fc2.foldable):
            return Gated(self, gate)
        return FusedFFN(self.fc1.as_linear(), self.fc1.act, self.fc2.as_linear(gate), 1 - gate)


class FusedFFN(nn.Module):
    """`FFN` with folded kernels. Shape: B C H W → B C H W."""

    def __init__(
        self, fc1: InferenceLinear, act: nn.Module, fc2: InferenceLinear, keep: Tensor
    ) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.keep = fc1, act, fc2, fixed(keep)

    def forward(self, x: Tensor) -> Tensor:
        """keep · x + fc2(act(fc1(x)))."""
        x = x.permute(0, 2, 3, 1)  # B H W C
        tokens = x.flatten(0, 2)
        return as_map(self.fc2(self.act(self.fc1(tokens))).addcmul_(self.keep, tokens), x)


class SqueezeExcite(layers.SqueezeExcite):
    """timm's `SqueezeExcite`, its 1×1 convolutions on one position computed as matrix products."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))  # B C
        pooled = self.act(F.linear(pooled, self.fc1.weight.flatten(1), self.fc1.bias))
        gate = self.gate(F.linear(pooled, self.fc2.weight.flatten(1), self.fc2.bias))
        return x * gate[..., None, None]


class Downsample(nn.Module):
    """Inverted bottleneck of stride 2 between two residual depthwise convolutions.

    Shape: B C H W → B D ⌈H/2⌉ ⌈W/2⌉.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = ratio * out_channels
        self.dwconv1 = Depthwise(in_channels)
        self.conv = nn.Sequential(
            Pointwise(in_channels, hidden, relu=True),
            ConvNorm(hidden, hidden, 3, stride=2, groups=hidden, relu=True),
            SqueezeExcite(hidden, 0.25),
            Pointwise(hidden, out_channels),
        )
        self.dwconv2 = Depthwise(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv2(self.conv(self.dwconv1(x)))

    def fuse(self) -> nn.Sequential:
        """Return the equivalent for inference, with folded kernels."""
        layers: Any = self.conv
        expand, stride, excite, project = layers
        return nn.Sequential(
            self.dwconv1.fuse(),
            expand.fuse(),
            stride.fuse(),
            excite,
            project.fuse(),
            self.dwconv2.fuse(),
        )


def freeze(module: nn.Module) -> None:
    """Stop the gradients of all parameters of `module` and put it into evaluation mode."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False


class KeepStatistics(contextlib.AbstractContextManager):
    """While entered, BN layers of `module` normalise as usual but do not update their statistics.

    A recomputed forward sees each batch a second time, which must not count twice.
    """

    def __init__(self, module: nn.Module) -> None:
        kind = nn.modules.batchnorm._BatchNorm  # also that of several processes, SyncBatchNorm
        self.norms: list[Any] = [m for m in module.modules() if isinstance(m, kind) and m.training]

    def __enter__(self) -> None:
        self.momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self.norms, self.momenta):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
