"""The terminal: the only module below the command lines that prints for a person."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


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
