"""Single training steps, to measure what training takes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.config import Config

from effvim.config.reading import import_plugins
from effvim.engine import ema
from effvim.engine.memory import peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from effvim.config.run_spec import RunSpec


class Step(NamedTuple):
    """A training step that was measured.

    Attributes:
        images: how many it was taken on.
        seconds: how long it took.
        mebibytes: peak memory since the first of its series.
    """

    images: int
    seconds: float
    mebibytes: int


def without_weights(cfg: Config) -> Config:
    """A copy of a config that loads no weights: random ones take as much time and memory.

    It takes an optimiser step after each batch.
    """
    cfg = copy.deepcopy(cfg)
    if cfg.optim_wrapper.get('accumulative_counts'):
        cfg.optim_wrapper.accumulative_counts = 1
    cfg.load_from, cfg.resume = None, False
    cfg.model.backbone.init_cfg = None
    return cfg


def training_stepper(cfg: Config, spec: RunSpec) -> tuple[Any, Callable[[Any], float]]:
    """Build a config for single training steps.

    Returns:
        The Runner, and a function that takes one training step on a batch and returns its seconds.
    """
    import_plugins(cfg)

    from effvim.engine.runner import Runner

    running = Runner(cfg, spec)
    optim_wrapper = running.optim_wrapper = running.build_optim_wrapper(cfg.optim_wrapper)
    running.model.train()
    if ema.is_used(cfg):
        running.averaged = copy.deepcopy(running.model)  # which takes memory in training

    def step(batch: Any) -> float:
        began = time.perf_counter()
        running.model.train_step(batch, optim_wrapper)  # reads the losses, so a GPU has finished
        return time.perf_counter() - began

    return running, step


def is_too_small(error: Exception) -> bool:
    """Whether BN refused a batch because it has one value per channel, as after image pooling."""
    return isinstance(error, ValueError) and 'more than 1 value per channel' in str(error)


def measured_steps(
    step: Callable[[Any], float],
    collate: Callable[[list[Any]], Any],
    samples: Callable[[int], list[Any]],
    sizes: Sequence[int],
) -> Iterator[Step]:
    """Take training steps on growing batches and measure each.

    Args:
        step: as `training_stepper` returns it.
        collate: makes a batch of samples.
        samples: returns that many samples.
        sizes: numbers of images, ascending.
    """
    reset_peak_memory()
    step(collate(samples(sizes[0])))  # allocates the optimiser's state
    for size in sizes:
        yield Step(size, step(collate(samples(size))), peak_memory())
