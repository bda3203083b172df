"""What an exported file says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from mmengine.config import Config

from effvim.checkpoints import exported
from effvim.checkpoints.versions import versions
from effvim.config.run_spec import RunSpec
from effvim.config.structure import is_segmentor, kind_of, pair, scope_of


def metadata(
    cfg: Config,
    spec: RunSpec,
    kind: str,
    size: Sequence[int] | None,
    normalised: bool,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata of a file; each value is written as JSON.

    Directories of this machine are not remembered: the file is meant for others.

    Args:
        cfg: the config.
        spec: the run that trained the model, with the options of the export.
        kind: model type in the config, or 'Backbone'.
        size: height and width of the images; None for any size.
        normalised: whether the file takes normalised images.
        options: those of the export alone.

    Returns:
        `effvim`: the run, with options as Python writes them, since JSON has no tuples;
        `own_data`: whether its dataset was in another directory than the config says;
        `own_options`: names of the options of the export; `classes`; `kind`; `segments`: whether
        it is a segmentor; `size`; `input`: 'raw' or 'normalised'; `settings`: what of the config
        is fixed in the file, e.g. thresholds; `resize`: see `resize_rules`; `versions` of the
        packages.
    """
    run = spec.to_dict()
    classes = run.pop('classes')
    dropped = {name for name, value in spec.options.items() if has_absolute_path(value)}
    for key in ('options', 'fitted'):
        run[key] = {name: repr(value) for name, value in run[key].items() if name not in dropped}
    own_data = bool(run.pop('data_root')) or any('_dataloader.' in name for name in dropped)
    return {
        'effvim': run,
        'own_data': own_data,
        'own_options': [name for name in options if name not in dropped],
        'classes': classes,
        'kind': kind,
        'segments': is_segmentor(cfg),
        'size': list(size) if size else None,
        'input': 'normalised' if normalised else 'raw',
        'settings': exported.settings(cfg),
        'resize': resize_rules(cfg),
        'versions': versions(),
    }


# What a test pipeline may consist of, in this order, with the arguments that may have any value,
# and the values of others.
KNOWN_STEPS: dict[str, tuple[set[str], dict[str, tuple[Any, ...]]]] = {
    'LoadImageFromFile': (
        {'backend_args', 'ignore_empty', 'imdecode_backend'},  # for files alone
        {'color_type': ('color',), 'to_float32': (False,)},
    ),
    'Resize': (
        {'scale', 'keep_ratio', 'clip_object_border'},
        {'interpolation': ('bilinear',), 'backend': ('cv2',)},
    ),
    'ResizeToMultiple': ({'size_divisor'}, {'interpolation': ('bilinear', None)}),
    'Pad': ({'size', 'pad_val'}, {'padding_mode': ('constant',)}),
}


def resize_rules(cfg: Config) -> dict[str, Any] | None:
    """How the test pipeline brings images to the size that the network was tested at.

    Returns:
        `scale` (width and height that the image is to fit into, or None) and `keep_ratio`;
        `multiple`, to which both sides are then stretched, or None; `pad`, with the `size` (width
        and height) and the `value` that the image is then padded with at the right and the bottom,
        or None. None if the pipeline does something else.
    """
    rules: dict[str, Any] = dict(scale=None, keep_ratio=True, multiple=None, pad=None)
    pipeline = cfg.test_dataloader.dataset.pipeline
    steps = [step for step in pipeline if not kind_of(step).startswith(('LoadAnn', 'Pack'))]
    kinds = [kind_of(step) for step in steps]
    if kinds != [kind for kind in KNOWN_STEPS if kind in kinds]:  # another one, or another order
        return None
    if any(scope_of(step) not in ('', 'mmcv', 'mmdet', 'mmseg') for step in steps):
        return None
    for kind, step in zip(kinds, steps):
        free, known = KNOWN_STEPS[kind]
        for name in step.keys() - {'type', '_scope_', *free}:
            if step[name] not in known.get(name, ()):
                return None
        if kind == 'Resize':
            if not step.get('scale'):
                return None
            rules.update(scale=list(pair(step.scale)), keep_ratio=step.get('keep_ratio', False))
        elif kind == 'ResizeToMultiple':
            rules['multiple'] = step.get('size_divisor', 32)
        elif kind == 'Pad':
            value = step.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, Mapping) else value
            values = set(value) if isinstance(value, (list, tuple)) else {value}
            if not step.get('size') or len(values) != 1:
                return None
            rules['pad'] = dict(size=list(pair(step.size)), value=values.pop())
    return rules if exported.is_resize(rules) else None


def has_absolute_path(value: Any) -> bool:
    """Whether an option is, or holds, a path from the root of a file system of any kind."""
    if isinstance(value, Mapping):
        return any(has_absolute_path(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_absolute_path(item) for item in value)
    return isinstance(value, str) and (
        PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    )
