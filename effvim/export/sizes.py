"""The one size of the images of a file, and what brings images to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbone.errors import UserError
from effvim.config.structure import kind_of, pair
from effvim.export.settings import SMALLEST


def size_of(pipeline: Sequence[Mapping[str, Any]], out: str) -> tuple[int, int]:
    """Height and width that a test pipeline gives to every image.

    Args:
        pipeline: the steps.
        out: the file to write, for messages.

    Raises:
        UserError: it does not give all of them one size.
    """
    scale = None
    for step in pipeline:
        if 'Pad' in step['type'] and step.get('size'):
            width, height = pair(step['size'])
            return height, width
        scale = pair(step['scale']) if step.get('scale') else scale
    if scale and scale[0] == scale[1]:
        return scale
    side = max(SMALLEST, max(scale or [640]) // 64 * 32)
    raise UserError(
        f'--out {out}: this format takes images of one size: add --size H W, e.g. --size {side} '
        f'{side}'
    )


def fitting_options(
    pipeline: Sequence[Mapping[str, Any]], size: Sequence[int]
) -> dict[str, tuple[int, int]]:
    """Changes of a test pipeline after which its images fit into a file, by key in the pipeline.

    A step that keeps the ratio of the sides gets the longer and the shorter side of the file: with
    sides of two lengths images of the other orientation may still not fit.

    Args:
        pipeline: the steps.
        size: height and width of the file's images.
    """
    multiple = next(
        (s.get('size_divisor', 32) for s in pipeline if kind_of(s) == 'ResizeToMultiple'), 1
    )
    height, width = (side // multiple * multiple for side in size)
    changes = {}
    for i, step in enumerate(pipeline):
        key = {'Resize': 'scale', 'Pad': 'size'}.get(kind_of(step), '')
        if not step.get(key):
            continue
        given = pair(step[key])
        if key == 'scale' and step.get('keep_ratio'):
            given = max(given), min(given)
            fitting = min(given[0], max(width, height)), min(given[1], min(width, height))
        else:
            fitting = min(given[0], width), min(given[1], height)
        if fitting != given:
            changes[f'{i}.{key}'] = fitting
    return changes
