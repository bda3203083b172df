"""The folded network in the form that the runtimes of exported graphs compute fastest.

PyTorch is fastest with matrix products on positions; onnxruntime and OpenVINO with 1×1 convolutions
on maps, into which they fuse the ReLU and the residual. Outputs are equal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientvim import EfficientViM, FusedBlock, FusedStage
from .layers import FusedFFN, LayerNorm2d, OnPositions, fixed, with_kernel

SMALLEST_FACTOR = 1e-3  # by which weights are divided


def pointwise(weight: Any, bias: Any) -> nn.Conv2d:
    """The 1×1 convolution that equals a linear layer on all positions. Shape: D C, D."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device='meta')
    return with_kernel(conv, weight[..., None, None], bias)


def split_factor(keep: Tensor) -> tuple[Tensor, Tensor | None]:
    """A factor for each channel as one that weights can be divided by, and what is left of it.

    Shape: C → C, and C 1 1, or None where nothing is left.
    """
    divisor = keep.clamp(min=SMALLEST_FACTOR)
    rest = None if torch.equal(divisor, keep) else fixed((keep / divisor)[:, None, None])
    return divisor, rest


class ConvolutionalBlock(nn.Module):
    """A `FusedBlock` in convolutions. Shape: B C H W → (B C H W, hidden states B C N).

    A blend keep·x + gate·f(x) multiplies a map. The mixer's is computed as x + (gate/keep)·f(x)
    and its factor keep goes into the depthwise convolution behind it; the FFN's factor goes into
    the same convolution, before it, and fc1 divides by it.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        mixer, ffn = block.mixer, block.ffn
        depthwise: Any = block.dwconv2
        mixed, self.rest_mixed = split_factor(block.keep)
        fed, self.rest_fed = split_factor(ffn.keep)
        self.dwconv1, self.norm = block.dwconv1, block.norm
        projection = mixer.BCdt_proj.conv.weight[..., 0]
        self.BCdt_proj = pointwise(projection, torch.zeros_like(projection[:, 0]))
        self.dw, self.hz_proj, self.out_proj = mixer.dw, mixer.hz_proj, mixer.out_proj
        self.D, self.gate = fixed(mixer.D), fixed(block.gate / mixed)
        self.dwconv2 = with_kernel(
            depthwise, depthwise.weight * (mixed * fed)[:, None, None, None], depthwise.bias * fed
        )
        self.fc1, self.act = pointwise(ffn.fc1.weight / fed, ffn.fc1.bias), ffn.act
        self.fc2 = pointwise(ffn.fc2.weight, ffn.fc2.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dwconv1(x)
        normalised = self.norm(x)
        projected = self.dw(self.BCdt_proj(normalised)).flatten(2)  # B 3·N L
        b, c, dt = projected.chunk(3, dim=1)  # each B N L
        taken = dt.softmax(-1) * b
        h = taken @ normalised.permute(0, 2, 3, 1).flatten(1, 2)  # B N C
        h, z = self.hz_proj(h).chunk(2, dim=-1)  # each B N expand·C
        h = self.out_proj(h * (F.silu(z) + self.D))  # B N C
        y = c.transpose(1, 2) @ (self.gate * h)  # B L C
        y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        x = self.dwconv2(y + (x if self.rest_mixed is None else x * self.rest_mixed))
        y = self.fc2(self.act(self.fc1(x)))
        return y + (x if self.rest_fed is None else x * self.rest_fed), h.transpose(1, 2)


class MeanNorm(nn.Module):
    """`LayerNorm2d` without a transposition, by means over the channels. Shape: B C H W."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = (fixed(v[:, None, None]) for v in (norm.weight, norm.bias))
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        variance = (x * x).mean(1, keepdim=True)
        return x * (variance + self.eps).rsqrt() * self.weight + self.bias


def convolutional_layer(layer: nn.Module) -> nn.Module:
    """The equivalent of a layer of a folded network in convolutions, or the layer itself."""
    if isinstance(layer, FusedBlock) and all(
        isinstance(part, kind) for part, kind in ((layer.dwconv2, nn.Conv2d), (layer.ffn, FusedFFN))
    ):
        return ConvolutionalBlock(layer)
    if isinstance(layer, OnPositions):
        linear, *rest = layer
        return nn.Sequential(pointwise(linear.weight, linear.bias), *rest)
    return layer


@torch.no_grad()
def convolutional(network: EfficientViM) -> EfficientViM:
    """Write a folded network in convolutions, in place, and return it.

    Parts that could not be folded, e.g. after another tool has replaced BN, stay as they are.
    """
    for stage in network.stages:
        assert isinstance(stage, FusedStage)
        stage.blocks = nn.ModuleList(convolutional_layer(block) for block in stage.blocks)
        if isinstance(stage.downsample, nn.Sequential):
            stage.downsample = nn.Sequential(*map(convolutional_layer, stage.downsample))
    return network


@torch.no_grad()
def use_mean_norm(model: nn.Module) -> nn.Module:
    """Replace each `LayerNorm2d` of a model by a `MeanNorm`, in place, and return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LayerNorm2d):
            model.set_submodule(name, MeanNorm(module))
    return model
