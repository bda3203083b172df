"""Imports with little garbage collection.

Python's collector looks through all objects again and again while thousands of modules are
loaded, hardly one of which is garbage: a fifth of a command's start-up. It runs as usual once the
modules of a network are loaded, or when the command ends.
"""

from __future__ import annotations

import gc

RARELY = 10_000  # objects

_usual: tuple[int, int, int] | None = None  # while garbage is collected rarely


def collect_rarely() -> None:
    """Collect garbage rarely from now on."""
    global _usual
    if _usual is None:
        _usual = gc.get_threshold()
        gc.set_threshold(RARELY, *_usual[1:])


def collect_as_usual() -> None:
    """Collect garbage as before `collect_rarely`; without it nothing is changed."""
    global _usual
    if _usual is not None:
        gc.set_threshold(*_usual)
        _usual = None
