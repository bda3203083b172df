"""How large the images are that a training pipeline gives to the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from effvim.config.structure import kind_of, pair


class InputSize(NamedTuple):
    """The largest input of a pipeline.

    Attributes:
        width: in pixels.
        height: in pixels.
        fixed: whether inputs may have this very size; otherwise images keep their aspect ratio and
            fit into it, or into the same rectangle turned by 90 degrees.
    """

    width: int
    height: int
    fixed: bool

    @property
    def pixels(self) -> int:
        """The area."""
        return self.width * self.height


def largest_input(cfg: Config) -> InputSize | None:
    """The largest input in training; None if no step of the pipeline says a size."""
    pipelines = [cfg.train_dataloader.dataset.get('pipeline') or []]
    for hook in cfg.get('custom_hooks') or []:
        pipelines.append(hook.get('switch_pipeline') or [])
    sizes = [size for pipeline in pipelines if (size := _size_after(pipeline, None))]
    return max(sizes, key=lambda size: size.pixels, default=None)


def _size_after(steps: Sequence[Any], size: InputSize | None) -> InputSize | None:
    """The largest size after some steps, if it was `size` before."""
    for step in steps:
        if isinstance(step, (list, tuple)):
            size = _size_after(step, size)
        elif step.get('transforms'):
            branches = [
                _size_after([branch], size)
                for branch in step['transforms']
                if step['type'] == 'RandomChoice'
            ] or [_size_after(step['transforms'], size)]
            size = max(filter(None, branches), key=lambda size: size.pixels, default=None)
        else:
            size = _size_of(step, size)
    return size


def _size_of(step: Any, size: InputSize | None) -> InputSize | None:
    kind = kind_of(step)
    if _is_size(step.get('crop_size')):
        if step.get('crop_type') == 'absolute_range':  # from the first number to the second
            return InputSize(max(step['crop_size']), max(step['crop_size']), True)
        return InputSize(*pair(step['crop_size']), True)
    if kind == 'Pad' and _is_size(step.get('size')):
        return InputSize(*pair(step['size']), True)
    key = next((key for key in ('scale', 'scales', 'img_scale', 'img_scales') if step.get(key)), '')
    value = step.get(key)
    several = isinstance(value, (list, tuple)) and isinstance(value[0], (list, tuple))
    scales = [s for s in (value if several else [value]) if _is_size(s)]
    if not scales or kind == 'MixUp':  # which enlarges nothing
        return size
    width, height = max((pair(scale) for scale in scales), key=lambda pair: pair[0] * pair[1])
    factor = max(step.get('ratio_range') or (1,)) if kind == 'RandomResize' else 1
    options = {**step, **(step.get('resize_cfg') or {})}
    keeps = options.get('keep_ratio', False) and 'Mosaic' not in kind
    return InputSize(round(width * factor), round(height * factor), not keeps)


def _is_size(value: Any) -> bool:
    """Whether a value is a size in pixels, not a factor."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return bool(numbers) and all(isinstance(n, int) and n > 1 for n in numbers)
