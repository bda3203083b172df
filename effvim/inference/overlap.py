"""Iterate in another thread, so that decoding, the network, and encoding overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

Item = TypeVar('Item')

POLL = 0.1  # seconds after which a waiting thread looks whether it is still needed


def ahead(items: Iterator[Item], size: int = 2) -> Generator[Item, None, None]:
    """Iterate over `items` in a thread, at most `size` items ahead of the caller.

    An exception of `items` is raised at its place. The thread ends with the iteration: close the
    returned generator if you stop early; `items` is closed then, too.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                return waiting.put((kind, value), timeout=POLL)
            except queue.Full:
                pass

    def work() -> None:
        try:
            for item in items:
                put('item', item)
                if stopped.is_set():
                    break
        except BaseException as error:
            put('error', error)
        finally:
            if hasattr(items, 'close'):
                items.close()
            put('end', None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == 'end':
                return
            if kind == 'error':
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
