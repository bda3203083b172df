"""How much memory training takes, and how much the machine has."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch


def peak_memory() -> int:
    """Peak memory in MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    if sys.platform == 'win32':
        return psutil.Process().memory_info().peak_wset // 2**20
    with contextlib.suppress(OSError, StopIteration):  # Linux
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) // 2**10
    import resource

    # not on Linux: there a new process starts with the peak of the one that started it
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
    """Memory of the machine and how much of it is available, in bytes.

    In a container or a batch job these are of its control group where that has less.
    """
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit, used in control_group_limits():
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return total, available


def available_memory() -> int:
    """Memory in bytes that training could take: of the current GPU, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return machine_memory()[1]


def control_group_limits(root: Path = Path('/')) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of this process's control groups that have a limit (Linux only).

    Cached files are not counted as used, since the system drops them when memory is needed.

    Args:
        root: the root of the file system.
    """
    try:
        lines = (root / 'proc/self/cgroup').read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, group = line.split(':', 2)
        if controllers == '':  # version 2
            mount, names = root / 'sys/fs/cgroup', ('memory.max', 'memory.current')
            cached = 'inactive_file'
        elif 'memory' in controllers.split(','):  # version 1
            mount = root / 'sys/fs/cgroup/memory'
            names, cached = (
                ('memory.limit_in_bytes', 'memory.usage_in_bytes'),
                'total_inactive_file',
            )
        else:
            continue
        path = mount / group.strip('/')
        # in a container the group's own directory is mounted as the root
        for folder in (path, *path.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # no limit is the word "max"
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(line.split() for line in (folder / 'memory.stat').open())
                yield limit, max(used - int(stat[cached]), 0)
            if folder == mount:
                break
