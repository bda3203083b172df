"""Smaller batches with the same total: accumulated gradients, and a schedule that fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

# What schedulers of the learning rate count in iterations, where they count in these.
COUNTED = ('begin', 'end', 'T_max', 'total_steps', 'step_size', 'milestones')


def smaller_batches(batch_size: int) -> list[int]:
    """The batch sizes that divide `batch_size`, largest first, itself excluded."""
    return [size for size in range(batch_size - 1, 0, -1) if batch_size % size == 0]


def next_smaller(batch_size: int) -> int | None:
    """The largest of `smaller_batches`; None below a batch of one image."""
    return next(iter(smaller_batches(batch_size)), None)


def smaller_batch(cfg: Config, batch_size: int) -> dict[str, Any]:
    """Options that train `cfg` with another batch size and the same total.

    mmengine counts batches as iterations: what is counted in iterations becomes longer, so that
    the run takes as many steps, at the same rates, as before.

    Args:
        cfg: the config; not changed.
        batch_size: a divisor of the config's.

    Returns:
        Dotted keys and values, as for `--cfg-options`.
    """
    factor = (cfg.train_dataloader.get('batch_size') or 1) // batch_size
    counts = cfg.optim_wrapper.get('accumulative_counts')
    prefix = '' if counts else '+'
    options: dict[str, Any] = {
        'train_dataloader.batch_size': batch_size,
        f'{prefix}optim_wrapper.accumulative_counts': (counts or 1) * factor,
    }
    keys = []
    if 'max_iters' in cfg.train_cfg:
        keys += [f'train_cfg.{name}' for name in ('max_iters', 'val_begin', 'val_interval')]
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if saving.get('by_epoch') is False:
        keys.append('default_hooks.checkpoint.interval')
    schedulers = cfg.get('param_scheduler') or []
    single = isinstance(schedulers, dict)
    for i, scheduler in enumerate([schedulers] if single else schedulers):
        if scheduler.get('by_epoch', True) is False:
            name = 'param_scheduler' if single else f'param_scheduler.{i}'
            keys += [f'{name}.{key}' for key in COUNTED if key in scheduler]
    for key in keys:
        value = _value(cfg, key)
        if isinstance(value, int) and value > 0:
            options[key] = value * factor
        elif isinstance(value, (list, tuple)):
            options[key] = [number * factor for number in value]
    return options


def as_text(options: Mapping[str, Any]) -> str:
    """Options as words of a command line."""
    return ' '.join(f'{key}={str(value).replace(" ", "")}' for key, value in options.items())


def _value(cfg: Config, key: str) -> Any:
    """The value of a dotted key, through lists too; None where a part of it is absent."""
    name, _, rest = key.partition('.')
    node = cfg.get(name)
    for part in rest.split('.') if rest else ():
        if isinstance(node, list):
            node = node[int(part)]
        else:
            node = node.get(part) if node is not None else None
    return node
