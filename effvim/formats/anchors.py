"""How well a detector's anchors fit boxes, judged by their shapes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mmengine.config import Config

SCALES = (1, 2, 3, 4, 6, 8, 12, 16)  # that `best_scale` tries


def anchor_generator(cfg: Config) -> tuple[str, Any] | None:
    """The key and the value of the config's anchor generator; None for a detector without."""
    for head in ('bbox_head', 'rpn_head'):
        generator = (cfg.model.get(head) or {}).get('anchor_generator') or {}
        if generator.get('type') == 'AnchorGenerator':
            return f'model.{head}.anchor_generator', generator
    return None


def scale_of(generator: Any) -> tuple[str, float]:
    """The field of an anchor generator that sets the size of its anchors, and its first value."""
    octave = generator.get('octave_base_scale')
    return ('octave_base_scale', octave) if octave else ('scales', generator.scales[0])


def anchor_sizes(generator: Any, scale: float | None = None) -> np.ndarray:
    """Widths and heights of all anchors, N 2, in pixels of the network's input.

    Args:
        generator: config of the anchor generator.
        scale: of the first anchor of an octave (default: the config's).
    """
    octave = generator.get('octave_base_scale')
    if octave:
        number = generator.scales_per_octave
        scales = [(scale or octave) * 2 ** (i / number) for i in range(number)]
    else:
        scales = [scale] if scale else generator.scales
    sizes = np.outer(generator.strides, scales).reshape(-1, 1)
    roots = np.sqrt(generator.ratios)
    return np.stack([sizes / roots, sizes * roots], -1).reshape(-1, 2)


def coverage(boxes: np.ndarray, anchors: np.ndarray, threshold: float = 0.5) -> float:
    """Fraction of boxes that some anchor overlaps with an IoU of at least `threshold`.

    Box and anchor share their centre: what is lost because anchors lie on a grid is not counted.

    Args:
        boxes: widths and heights, N 2.
        anchors: widths and heights, M 2.
        threshold: IoU.
    """
    if not len(boxes):
        return 1.0
    intersection = np.minimum(boxes[:, None], anchors).prod(-1)
    iou = intersection / (boxes.prod(-1)[:, None] + anchors.prod(-1) - intersection)
    return float((iou.max(1) >= threshold).mean())


def best_scale(boxes: np.ndarray, generator: Any, enough: float = 0.95) -> float:
    """The scale nearest to the config's whose anchors cover `enough` of the boxes.

    If none does, the one that covers most.
    """
    _, own = scale_of(generator)
    nearest = sorted({own, *SCALES}, key=lambda scale: abs(np.log(scale / own)))
    covered = [coverage(boxes, anchor_sizes(generator, scale)) for scale in nearest]
    first = next((i for i, fraction in enumerate(covered) if fraction >= enough), None)
    return nearest[int(np.argmax(covered)) if first is None else first]


def resize_factors(sizes: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """By how much images are resized to fit into `scale`, as mmcv's Resize does: N.

    Args:
        sizes: widths and heights of the images, N 2.
        scale: the longest long and the longest short side, in any order.
    """
    long, short = max(scale), min(scale)
    return np.minimum(long / sizes.max(1), short / sizes.min(1))
