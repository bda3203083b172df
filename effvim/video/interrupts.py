"""Ctrl-C at a place where the files of a video agree."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block, in the main thread; a second one at once.

    Raises:
        KeyboardInterrupt: after Ctrl-C within the block, unless the program has another handler of
            SIGINT, which is then called.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # no signal reaches Python code here
        return
    received: list[tuple[int, Any]] = []

    def defer(number: int, frame: Any) -> None:
        received.append((number, frame))
        if len(received) > 1:
            handler(number, frame)

    signal.signal(signal.SIGINT, defer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if len(received) == 1:
            handler(*received[0])
