"""The size that `effvim train --data` resizes images to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effvim import console
from effvim.config.structure import (
    evaluation_resize,
    every_step,
    is_segmentor,
    pad_divisor,
    pair,
)
from effvim.formats import anchors

if TYPE_CHECKING:
    from mmengine.config import Config

SIZES = ('scale', 'scales', 'crop_size', 'size', 'img_scale')  # of pipeline steps, in pixels

MIN_SIDE = 128  # two cells of the coarsest map; BN of one cell has no variance

MAX_ENLARGEMENT = 1.4  # the finest map of the backbone's stages has stride 16

ELONGATED = 4  # times as long as wide: resized, such an image has hardly a short side left


def image_scale(
    cfg: Config,
    sizes: np.ndarray,
    image_size: int | None = None,
) -> tuple[int, int]:
    """The scale for evaluation: the config's, or smaller if that enlarged most images too much.

    Args:
        cfg: the config.
        sizes: widths and heights of the images, N 2.
        image_size: the long side of most images, in pixels (default: as said).

    Returns:
        Long side and short side, as the config orders them.
    """
    scale = pair(evaluation_resize(cfg).scale)
    factors = anchors.resize_factors(sizes, scale)
    long_side = float(np.median(factors * sizes.max(1)))
    if image_size:
        return _multiply(scale, image_size / long_side, _multiple(cfg))
    factor = min(1.0, MAX_ENLARGEMENT / float(np.median(factors)))
    return _multiply(scale, factor, _multiple(cfg))


def resizing(cfg: Config, scale: tuple[int, int]) -> dict[str, Any]:
    """Changes of every size in every pipeline that go with evaluation at `scale`."""
    own = pair(evaluation_resize(cfg).scale)
    if own == scale:
        return {}
    factor, multiple = max(scale) / max(own), _multiple(cfg)
    changes = {
        f'{key}.{name}': _multiply(step[name], factor, multiple)
        for key, step in every_step(cfg)
        for name in SIZES
        if name in step
    }
    if is_segmentor(cfg):
        changes['model.data_preprocessor.size'] = _multiply(
            cfg.model.data_preprocessor.size, factor, multiple
        )
    return changes


def _multiple(cfg: Config) -> int:
    """What sides are rounded to: what the model pads images to, at least 32."""
    return max(32, pad_divisor(cfg))


def _multiply(size: Any, factor: float, multiple: int) -> Any:
    """Multiply a size in pixels, or a list of them, and round it; ratios stay as they are."""
    if isinstance(size, (list, tuple)):
        return type(size)(_multiply(one, factor, multiple) for one in size)
    in_pixels = isinstance(size, int) and factor != 1
    return max(MIN_SIDE, round(size * factor / multiple) * multiple) if in_pixels else size


def note_elongated(
    sizes: dict[Any, tuple[int, int]], content: dict[str, Any], scale: tuple[int, int]
) -> None:
    """Name the images of which resizing leaves little: those many times as long as wide."""
    long = {
        key: size
        for key, size in sizes.items()
        if max(size) > ELONGATED * min(size)
        and anchors.resize_factors(np.array([size]), scale)[0] < 1
    }
    if not long:
        return
    key, size = max(long.items(), key=lambda item: max(item[1]) / min(item[1]))
    names = {image['id']: image['file_name'] for image in content.get('images', [])}
    factor = anchors.resize_factors(np.array([size]), scale)[0]
    console.note(
        f'{len(long):,} image{"s are" if len(long) > 1 else " is"} more than {ELONGATED} times as '
        f'long as wide, e.g. {names.get(key, key)} ({size[0]} × {size[1]}): resized, its short '
        f'side has {min(size) * factor:.0f} pixels, and small objects vanish; cut such images into '
        f'tiles'
    )
