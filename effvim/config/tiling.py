"""How large images are divided into tiles; importing this needs no torch."""

from __future__ import annotations

import dataclasses
import math

from backbone.errors import UserError

SMALLEST = 64  # pixels of a tile's side
TILED_MEGAPIXELS = 1000  # of the largest image in tiles


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are divided.

    Attributes:
        size: side of a tile in pixels; an image that is smaller along an axis is one tile there.
        overlap: fraction of a tile that it shares with the next one, at least; from 0, below 1.
    """

    size: int = 640
    overlap: float = 0.2

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: one is out of range.
        """
        if self.size < SMALLEST:
            raise UserError(f'--tile must be at least {SMALLEST} pixels, got {self.size}')
        if not 0 <= self.overlap < 1:
            raise UserError(f'--overlap must be from 0 to below 1, got {self.overlap:g}')

    def starts(self, length: int) -> list[int]:
        """Where the tiles along an axis of `length` pixels begin, evenly spaced."""
        if length <= self.size:
            return [0]
        step = max(1, math.floor(self.size * (1 - self.overlap)))
        steps = math.ceil((length - self.size) / step)
        return [round(i * (length - self.size) / steps) for i in range(steps + 1)]
