"""A sign of life where nothing else has been printed for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Reminder:
    """Calls a function, in a thread of its own, whenever some seconds have passed in silence.

    Args:
        seconds: length of the silence.
        speak: what is called then; it gets the seconds since the last `touch`.
    """

    def __init__(self, seconds: float, speak: Callable[[float], None]) -> None:
        self.seconds, self.speak = seconds, speak
        self.touched = self.spoken = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, name='reminder', daemon=True)
        self.thread.start()

    def touch(self) -> None:
        """Start the silence anew: something else was printed."""
        self.touched = self.spoken = time.monotonic()

    def end(self) -> None:
        """Stop for good."""
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(max(0.01, self.spoken + self.seconds - time.monotonic())):
            now = time.monotonic()
            if now - self.spoken >= self.seconds:
                self.spoken = now
                self.speak(now - self.touched)
