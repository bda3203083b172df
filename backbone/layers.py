"""The small parts that the stem, the blocks and the downsampling are made of.

Activations are B C H W. No convolution here has a bias (squeeze-excite excepted): a BN follows, or,
inside the mixer, nothing does.
"""

import contextlib

from timm.layers import LayerNorm2d, SqueezeExcite
from torch import Tensor, nn

__all__ = ['FFN', 'ConvNorm', 'Downsample', 'LayerNorm2d', 'Pointwise1d', 'Stem']


class ConvNorm(nn.Module):
    """Convolution → BN → optionally ReLU. Odd kernels keep the size at stride 1.

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
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Pointwise1d(nn.Module):
    """1×1 convolution over a sequence of L tokens. Shape: B C L → B D L.

    Its weight is stored as that of a Conv1d, (D, C, 1), as published checkpoints have it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def on_map(self, x: Tensor) -> Tensor:
        """The same on a map, without flattening it. Shape: B C H W → B D H W."""
        return nn.functional.conv2d(x, self.conv.weight.unsqueeze(-1))


class Stem(nn.Module):
    """Four 3×3 convolutions of stride 2. Shape: B 3 H W → B C ⌈H/16⌉ ⌈W/16⌉."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [in_channels, channels // 8, channels // 4, channels // 2, channels]
        self.conv = nn.Sequential(
            *(ConvNorm(widths[i], widths[i + 1], 3, stride=2, relu=i < 3) for i in range(4))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FFN(nn.Module):
    """Two 1×1 convolutions with BN, ReLU between. Shape: B C H W → B C H W."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, hidden, relu=True)
        self.fc2 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class Downsample(nn.Module):
    """Inverted bottleneck of stride 2 between two residual depthwise convolutions.

    Shape: B C H W → B D ⌈H/2⌉ ⌈W/2⌉.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = ratio * out_channels
        self.dwconv1 = ConvNorm(in_channels, in_channels, 3, groups=in_channels)
        self.conv = nn.Sequential(
            ConvNorm(in_channels, hidden, relu=True),
            ConvNorm(hidden, hidden, 3, stride=2, groups=hidden, relu=True),
            SqueezeExcite(hidden, 0.25),
            ConvNorm(hidden, out_channels),
        )
        self.dwconv2 = ConvNorm(out_channels, out_channels, 3, groups=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x + self.dwconv1(x))
        return x + self.dwconv2(x)


def freeze(module: nn.Module) -> None:
    """Stop the gradients of all parameters of `module` and put it into evaluation mode."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False


class KeepStatistics(contextlib.AbstractContextManager):
    """While entered, BN layers of `module` normalise as always but their statistics stay.

    A recomputed forward sees each batch a second time; it must not be counted twice.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.training]

    def __enter__(self) -> None:
        self.momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self.norms, self.momenta):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
