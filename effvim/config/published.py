"""The authors' training curves, for runs of the same recipe."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from effvim.config.reading import load_config
from effvim.config.structure import parts_with_classes, value_at
from effvim.resources import CONFIGS, PUBLISHED_CURVES

# What makes a recipe, by dotted key; weights and directories do not.
RECIPE = (
    'model.backbone.arch',
    'model.backbone.norm_eval',
    'optim_wrapper.optimizer',
    'optim_wrapper.clip_grad',
    'param_scheduler',
    'train_cfg',
    'train_dataloader.dataset.pipeline',
)


class PublishedCurve(NamedTuple):
    """A published training run.

    Attributes:
        evaluations: metrics after each epoch or some iterations, with the number of either.
        loss: pairs of an iteration and the total loss before it.
        iterations_per_epoch: None for runs that count iterations.
    """

    evaluations: list[dict[str, float]]
    loss: list[tuple[int, float]]
    iterations_per_epoch: int | None = None

    @property
    def unit(self) -> str:
        """What evaluations are counted in, 'epoch' or 'iter'."""
        return 'epoch' if self.iterations_per_epoch else 'iter'

    def iteration(self, evaluation: Mapping[str, float]) -> int:
        """The iteration after which an evaluation was made."""
        return int(evaluation[self.unit]) * (self.iterations_per_epoch or 1)

    def compare(self, metrics: Mapping[str, float], step: int) -> str:
        """How far metrics are from the published ones.

        Args:
            metrics: by mmdet's or mmseg's names.
            step: epochs or iterations that were trained.

        Returns:
            A line, empty if nothing was published of that step.
        """
        published = next((e for e in self.evaluations if e[self.unit] == step), {})
        own = {name.rpartition('/')[2]: value for name, value in metrics.items()}
        parts = [
            f'{name} {own[name]:.{digits}f}, published {value:.{digits}f} '
            f'({own[name] - value:+.{digits}f})'
            for name, value in published.items()
            if name in own and (name.endswith('_mAP') or name == 'mIoU')
            for digits in [3 if name.endswith('_mAP') else 2]
        ]
        unit = 'epoch' if self.unit == 'epoch' else 'iteration'
        return f'after {unit} {step}: {"; ".join(parts)}' if parts else ''


@functools.cache
def _read() -> dict[str, Any]:
    return json.loads(PUBLISHED_CURVES.read_text(encoding='utf-8'))


def published_names() -> set[str]:
    """Names of the configs of which a training run was published."""
    return _read().keys() - {'source'}


def num_classes(cfg: Config) -> list[int]:
    """How many classes each part of the model has."""
    return [part['num_classes'] for part in parts_with_classes(cfg.model)]


def published_curve(cfg: Config, name: str, world_size: int | None = None) -> PublishedCurve | None:
    """The published run that a config repeats; None if none has its recipe and number of classes.

    Args:
        cfg: the config, with everything applied.
        name: file name of the config.
        world_size: number of processes; None if it is not known, then any total batch size will do.
    """
    name = Path(name).stem
    if name not in published_names():
        return None
    original = load_config(str(CONFIGS / f'{name}.py'))
    if any(value_at(cfg, key) != value_at(original, key) for key in RECIPE):
        return None
    if num_classes(cfg) != num_classes(original):  # another dataset
        return None
    batch = cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)
    if world_size and batch * world_size != original.auto_scale_lr.base_batch_size:
        return None
    content = _read()[name]
    return PublishedCurve(
        content['evaluations'],
        [(step, loss) for step, loss in content['loss']],
        content.get('iterations_per_epoch'),
    )
