"""Single training steps, to measure what training takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from effvim.config.reading import import_plugins

if TYPE_CHECKING:
    from mmengine.config import Config

    from effvim.config.run_spec import RunSpec


def training_stepper(cfg: Config, spec: RunSpec) -> tuple[Any, Callable[[Any], float]]:
    """Build a config for single training steps.

    Returns:
        The Runner, and a function that takes one training step on a batch and returns its seconds.
    """
    import_plugins(cfg)

    from effvim.engine.runner import Runner

    running = Runner(cfg, spec)
    optim_wrapper = running.build_optim_wrapper(cfg.optim_wrapper)
    running.model.train()

    def step(batch: Any) -> float:
        began = time.perf_counter()
        running.model.train_step(batch, optim_wrapper)  # reads the losses, so a GPU has finished
        return time.perf_counter() - began

    return running, step
