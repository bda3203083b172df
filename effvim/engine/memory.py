"""How much memory training takes: three steps of a config, on the device that there is.

    python -m effvim.memory CONFIG --cfg-options train_dataloader.batch_size=4 …

The command line is that of tools/train.py. Pretrained weights are not fetched, they take no other
room than random ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mmengine.config import Config
import contextlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

STEPS = 3  # the optimiser's state is there from the second on


def stepper(cfg: Config, about: Mapping[str, Any]) -> tuple[Any, Callable[[Any], float]]:
    """A runner of a config, and what takes one training step on a batch and returns its seconds."""
    from effvim.config.reading import import_plugins
    from effvim.engine.runner import Runner

    import_plugins(cfg)
    running = Runner(cfg, about)
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == 'darwin' else 2**10)


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on: annotations take more than training while they are read.

    Where the system does not offer that, it goes on from the start of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # Linux only, and not in every container
            Path('/proc/self/clear_refs').write_text('5')  # see proc(5)


def machine_memory() -> tuple[int, int]:
    """Memory of the machine and what of it is free, in bytes."""
    page = os.sysconf('SC_PAGE_SIZE')
    total = os.sysconf('SC_PHYS_PAGES') * page
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(
            int(line.split()[1]) * 2**10 for line in lines if line.startswith('MemAvailable:')
        )
    except (OSError, StopIteration):  # not Linux
        free = total
    return total, free
