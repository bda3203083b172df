"""How long `effvim train --data` trains, in which batches, and how often it validates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from effvim.config.augmentation import last_epochs
from effvim.config.structure import kind_of

if TYPE_CHECKING:
    from mmengine.config import Config

BATCH_SIZE = 4  # of all processes; more and smaller steps learn sooner where data is scarce

IMAGES_SEEN = 24_000  # in a training run, however many there are, within MIN_EPOCHS to MAX_EPOCHS

# By model; these have BN in neck and head. All others take 5e-4.
FROM_SCRATCH = {'RTMDet': 1e-3, 'YOLOX': 1e-3}

MIN_EPOCHS, MAX_EPOCHS = 6, 100

MIN_VALIDATIONS, MAX_VALIDATIONS = 2, 10

VALIDATED = 0.1  # images that all validations together see, per image that training sees


class Schedule:
    """A schedule for a number of images.

    Attributes:
        epochs: how often every image is seen.
        batch_size: of each process.
        total: images whose gradients are averaged, of all processes.
        steps: iterations in the whole training.
        length: of the training, in epochs or in iterations, as the config counts.
        interval: from one validation to the next, likewise.
        validations: how often is validated.
    """

    def __init__(
        self,
        num_images: int,
        num_val: int,
        epochs: int | None = None,
        processes: int = 1,
        by_iteration: bool = False,
        batch_size: int | None = None,
        accumulated: int = 1,
    ) -> None:
        self.epochs = epochs or int(
            np.clip(round(IMAGES_SEEN / num_images), MIN_EPOCHS, MAX_EPOCHS)
        )
        self.batch_size = batch_size or max(1, min(BATCH_SIZE, num_images) // processes)
        self.total = self.batch_size * processes * accumulated
        self.steps = self.epochs * math.ceil(num_images / (self.batch_size * processes))
        affordable = VALIDATED * self.epochs * num_images / max(1, num_val)
        self.length = self.steps if by_iteration else self.epochs
        most = int(np.clip(affordable, MIN_VALIDATIONS, MAX_VALIDATIONS))
        self.interval = math.ceil(self.length / most)
        self.validations = math.ceil(self.length / self.interval)


def options(
    cfg: Config, schedule: Schedule, from_scratch: bool, rate: float | None = None
) -> dict[str, Any]:
    """Changes of length, batch size, learning rate, and when to evaluate and to save.

    Args:
        cfg: the config, not changed.
        schedule: the length and the batch size.
        from_scratch: whether the run starts from randomly initialised weights.
        rate: the learning rate (default: see `learning_rate`).
    """
    by_iteration = 'max_iters' in cfg.train_cfg
    rate = learning_rate(cfg, schedule.total, from_scratch) if rate is None else rate
    length, interval = schedule.length, schedule.interval
    warm_up = dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=min(500, max(1, schedule.steps // 20)),
    )
    cosine = dict(
        type='CosineAnnealingLR',
        by_epoch=not by_iteration,
        begin=0,
        end=length,
        T_max=length,
        eta_min_ratio=0.01,
    )
    if not by_iteration:
        cosine['convert_to_iter_based'] = True
    changes: dict[str, Any] = {
        f'train_cfg.max_{"iters" if by_iteration else "epochs"}': length,
        'train_cfg.val_interval': interval,
        'default_hooks.checkpoint.interval': interval,
        'train_dataloader.batch_size': schedule.batch_size,
        'optim_wrapper.optimizer.lr': rate,
        'param_scheduler': [warm_up, cosine],
    }
    if 'dynamic_intervals' in cfg.train_cfg:
        changes['train_cfg.dynamic_intervals'] = None
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if hook.type == 'PipelineSwitchHook':
            changes[f'custom_hooks.{i}.switch_epoch'] = last_epochs(schedule.epochs)
    return changes


def learning_rate(cfg: Config, total: int, from_scratch: bool) -> float:
    """That of the recipe, or from scratch of `FROM_SCRATCH`, for another total batch size.

    With the square root of the batch size, as is usual for optimizers like Adam.
    """
    if from_scratch:
        rate = FROM_SCRATCH.get(kind_of(cfg.model), 5e-4)
        return float(f'{rate * max(1, total / BATCH_SIZE) ** 0.5:.2g}')
    published = (cfg.get('auto_scale_lr') or {}).get(
        'base_batch_size', cfg.train_dataloader.batch_size
    )
    return float(f'{cfg.optim_wrapper.optimizer.lr * (total / published) ** 0.5:.2g}')
