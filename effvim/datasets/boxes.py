"""Boxes: around masks, at the edges of images, and what can be wrong with them."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import numpy as np

TOLERANCE = 1.0  # pixels by which a box may leave its image, for rounding


class BoxProblem(enum.Enum):
    """What is wrong with a box; the value continues the sentence "the box …"."""

    NOT_FINITE = 'is not four finite numbers'
    NEGATIVE = 'has a negative side'
    OUTSIDE = 'is outside'
    LEAVES = 'leaves'


def box_problem(box: Sequence[float], width: float, height: float) -> BoxProblem | None:
    """Check a box against its image; None if nothing is wrong.

    Args:
        box: x1, y1, x2, y2 in pixels.
        width: of the image.
        height: of the image.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return BoxProblem.NOT_FINITE
    if x2 < x1 or y2 < y1:
        return BoxProblem.NEGATIVE
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        return BoxProblem.OUTSIDE
    if max(-x1, -y1, x2 - width, y2 - height) > TOLERANCE:
        return BoxProblem.LEAVES
    return None


def clip_box(
    box: Sequence[float], width: float, height: float
) -> tuple[float, float, float, float]:
    """Cut a box x1, y1, x2, y2 at the edges of its image."""
    x1, y1, x2, y2 = box
    return max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)


def box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 in pixels around the true pixels of H W; all 0 if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
