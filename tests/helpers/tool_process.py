"""A tool as a process of its own: what it prints, and what it takes of memory, files and disk."""

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
    """`tools/NAME.py` with arguments, ended with all its workers when the `with` block ends."""

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
        """What it prints, as it comes."""
        for line in self.process.stdout:
            self.output += line
            yield line

    def until(self, begin: str) -> float:
        """Wait for a line that begins so; returns the seconds since the start."""
        assert any(line.startswith(begin) for line in self.lines()), self.output
        return time.monotonic() - self.began

    def workers(self) -> list[int]:
        """The processes that it has started."""
        children = Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children')
        return [int(number) for number in children.read_text().split()]

    def peak(self) -> float:
        """The most memory that the main process has had so far, in MiB."""
        lines = Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024

    def open_files(self) -> int:
        """Of the main process and its workers."""
        return sum(
            len(os.listdir(f'/proc/{number}/fd')) for number in (self.process.pid, *self.workers())
        )


def memory(process: int) -> tuple[float, float]:
    """MiB that a process holds: all of it (RSS), and what it has written itself.

    Pages of libraries are left out of the latter: they are its own as long as no other process on
    the machine has loaded them.
    """
    fields = {}
    for line in Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()[1:]:
        name, value, _ = line.split()
        fields[name] = int(value) / 1024
    return fields['Rss:'], fields['Private_Dirty:'] + fields['Swap:']
