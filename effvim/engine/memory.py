"""How much memory training takes, and how much the machine has."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil
import torch


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
