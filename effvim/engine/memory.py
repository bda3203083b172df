"""How much memory training takes, and how much the machine has."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

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


def peak_memory() -> int:
    """Peak memory in MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    if sys.platform == 'win32':
        return psutil.Process().memory_info().peak_wset // 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == 'darwin' else 2**10)


def reset_peak_memory() -> None:
    """Restart `peak_memory`: reading annotations takes more memory than training.

    Where the system does not offer that, the peak since the start of the process remains.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # Linux only, and not in every container
            Path('/proc/self/clear_refs').write_text('5')  # see proc(5)


def machine_memory() -> tuple[int, int]:
    """Memory of the machine and how much of it is available, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total, memory.available
