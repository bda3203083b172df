"""The terminal: the only module below the command lines that prints for a person."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_SECONDS = 30  # between lines of progress where there is no terminal


def say(*lines: object) -> None:
    """Print results, a line each, to stdout."""
    for line in lines:
        print(line, flush=True)


def show(renderable: Any) -> None:
    """Print a table of rich to stdout, its cells taken literally."""
    from rich.console import Console

    Console(markup=False).print(renderable)


def note(text: str) -> None:
    """Print something worth knowing to stderr."""
    print(f'note: {text}', file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    print(f'warning: {text}', file=sys.stderr, flush=True)


def error(*lines: object) -> None:
    """Print lines to stderr, for reports of what went wrong."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def progress(title: str, *, enabled: bool = True) -> Progress:
    """A progress bar on stderr, to be used as a context manager; hidden if not a terminal.

    Args:
        title: what is counted, e.g. 'images'.
        enabled: False hides the bar, e.g. on all ranks but the first.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        title,
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (enabled and console.is_terminal),
    )


def transfer(title: str) -> Progress:
    """A progress bar of bytes on stderr, like `progress`.

    Args:
        title: name of what is transferred.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    return Progress(
        title,
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class FrameProgress:
    """Progress of a video on stderr, with frames per second; a context manager.

    A bar on a terminal, else a line every `LINE_SECONDS`.

    Args:
        title: name of the video.
        total: number of frames, about; None if it is unknown.
        enabled: False hides it, e.g. on all ranks but the first.

    Attributes:
        done: number of frames so far.
    """

    def __init__(self, title: str, total: int | None, *, enabled: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self.title, self.total, self.done = title, total, 0
        self.prints = enabled and not console.is_terminal
        self.started = self.printed = time.monotonic()
        self.bar = Progress(
            TextColumn('{task.description}', markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]:.1f} frames/s'),
            TimeRemainingColumn(),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self.task = self.bar.add_task(title, total=total, rate=0.0)

    def __enter__(self) -> FrameProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def rate(self) -> float:
        """Frames per second so far."""
        return self.done / max(1e-9, time.monotonic() - self.started)

    def advance(self) -> None:
        """Count a frame."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, rate=self.rate)
        if self.prints and time.monotonic() - self.printed >= LINE_SECONDS:
            self.printed = time.monotonic()
            of = f' of about {self.total}' if self.total else ''
            error(f'{self.title}: {self.done}{of} frames, {self.rate:.1f} per second')


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Discard what is printed and logged, also by native code, while a converter or runtime works.

    What failed is said by its exception.
    """
    with tempfile.TemporaryFile() as sink, quiet(logging.CRITICAL, errors=True):
        saved = [(number, os.dup(number)) for number in (1, 2)]
        try:
            sys.__stdout__.flush()
            for number, _ in saved:
                os.dup2(sink.fileno(), number)
            yield
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)


@contextlib.contextmanager
def quiet(level: int = logging.WARNING, *, errors: bool = False) -> Iterator[None]:
    """Discard what is printed to stdout, and log records up to `level`, e.g. while mmdet loads.

    Args:
        level: of `logging`.
        errors: also discard what is printed to stderr, on ranks that repeat the first one's work.
    """
    logging.disable(level)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if errors:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(logging.NOTSET)
