"""The first step of detectors and segmentors as a module that exported graphs contain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PadToMultiple(nn.Module):
    """Pad maps with 0 at the right and the bottom. Shape: B 3 H W → B 3 H' W'.

    Args:
        divisor: height and width are padded to multiples of it.
    """

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        if self.divisor == 1:
            return x
        return F.pad(x, (0, -x.shape[3] % self.divisor, 0, -x.shape[2] % self.divisor))


class Prepare(nn.Module):
    """Normalise images and pad them with 0 at the right and the bottom.

    Shape: B 3 H W, 0 to 255 as OpenCV reads images → B 3 H' W', multiples of `divisor`.

    Args:
        mean: of each channel, in the network's order.
        std: standard deviation of each channel.
        reverse: reverse the order of channels first, from BGR to RGB.
        divisor: height and width are padded to multiples of it.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], reverse: bool, divisor: int
    ) -> None:
        super().__init__()
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values).view(-1, 1, 1)) for values in (mean, std)
        )
        self.reverse, self.pad = reverse, PadToMultiple(divisor)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        return self.pad(((x.flip(1) if self.reverse else x) - self.mean) / self.std)
