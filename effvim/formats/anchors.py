"""How well a detector's anchors fit boxes, judged by their shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.config import Config

SCALES = (1, 2, 3, 4, 6, 8, 12, 16)  # that `best_scale` tries


def generator(cfg: Config) -> tuple[str, Any] | None:
    """Where the config has its anchors and what they are; None for a detector without."""
    for part in ('bbox_head', 'rpn_head'):
        found = (cfg.model.get(part) or {}).get('anchor_generator') or {}
        if found.get('type') == 'AnchorGenerator':
            return f'model.{part}.anchor_generator', found
    return None


def scale_of(anchors: Any) -> tuple[str, float]:
    """The field that says how large the anchors are, and its value, the first of several."""
    octave = anchors.get('octave_base_scale')
    return ('octave_base_scale', octave) if octave else ('scales', anchors.scales[0])


def sides(anchors: Any, scale: float | None = None) -> np.ndarray:
    """Widths and heights of all anchors, N 2, in pixels of the network's input.

    scale: instead of the config's, of the first of an octave.
    """
    octave = anchors.get('octave_base_scale')
    if octave:
        number = anchors.scales_per_octave
        scales = [(scale or octave) * 2 ** (i / number) for i in range(number)]
    else:
        scales = [scale] if scale else anchors.scales
    sizes = np.outer(anchors.strides, scales).reshape(-1, 1)
    roots = np.sqrt(anchors.ratios)
    return np.stack([sizes / roots, sizes * roots], -1).reshape(-1, 2)


def coverage(boxes: np.ndarray, anchors: np.ndarray, threshold: float = 0.5) -> float:
    """Share of boxes, N 2 of width and height, that some anchor overlaps by IoU `threshold`.

    Box and anchor share their centre: what anchors lie between their places loses is not counted.
    """
    if not len(boxes):
        return 1.0
    inner = np.minimum(boxes[:, None], anchors).prod(-1)
    iou = inner / (boxes.prod(-1)[:, None] + anchors.prod(-1) - inner)
    return float((iou.max(1) >= threshold).mean())


def best_scale(boxes: np.ndarray, anchors: Any, enough: float = 0.95) -> float:
    """Of the scales that cover `enough` of the boxes the nearest to the config's.

    If none does, the one that covers most.
    """
    _, own = scale_of(anchors)
    nearest = sorted({own, *SCALES}, key=lambda scale: abs(np.log(scale / own)))
    covered = [coverage(boxes, sides(anchors, scale)) for scale in nearest]
    first = next((i for i, share in enumerate(covered) if share >= enough), None)
    return nearest[int(np.argmax(covered)) if first is None else first]


def resized(sizes: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """The factor by which pictures, N 2 of width and height, are resized into `scale`, N."""
    long, short = max(scale), min(scale)
    return np.minimum(long / sizes.max(1), short / sizes.min(1))
