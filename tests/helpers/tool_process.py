"""A command in a process of its own: what it prints, and its memory, open files and disk use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import ROOT

MIB = 2**20


class Tool:
    """`tools/NAME.py` with arguments, killed with all its workers when the `with` block ends."""

    def __init__(self, name: str, *argv: object) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / f'tools/{name}.py'), *map(str, argv)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            start_new_session=True,
        )
        self.output = ''

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            for each in (*self.workers(), self.process.pid):
                os.kill(each, signal.SIGKILL)
        self.process.communicate()

    def lines(self) -> Iterator[str]:
        """The lines that it prints, as they come."""
        for line in self.process.stdout:
            self.output += line
            yield line

    def until(self, start: str) -> float:
        """Wait for a line that starts with `start`; returns the seconds since the process began."""
        assert any(line.startswith(start) for line in self.lines()), self.output
        return time.monotonic() - self.began

    def workers(self) -> list[int]:
        """The ids of its child processes."""
        children = Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children')
        return [int(number) for number in children.read_text().split()]

    def peak(self) -> float:
        """The peak memory (RSS) of the main process so far, in MiB."""
        lines = Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024

    def open_files(self) -> int:
        """The number of open files of the main process and its workers."""
        return sum(
            len(os.listdir(f'/proc/{number}/fd')) for number in (self.process.pid, *self.workers())
        )


def memory(process: int) -> tuple[float, float]:
    """The memory of a process in MiB: all of it (RSS), and what it has written itself.

    The latter ignores the pages of libraries: they count as private as long as no other process on
    the machine has loaded them.
    """
    fields = {}
    for line in Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()[1:]:
        name, value, _ = line.split()
        fields[name] = int(value) / 1024
    return fields['Rss:'], fields['Private_Dirty:'] + fields['Swap:']
