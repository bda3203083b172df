"""Imports without Python's garbage collector.

It looks through all objects again and again while thousands of modules are loaded, hardly one of
which is garbage: a fifth of a command's start-up. It runs as usual once a network is to be built.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()

RARELY = 10_000  # objects


def begin() -> None:
    """Collect garbage rarely from now on."""
    gc.set_threshold(RARELY, *_USUAL[1:])


def end() -> None:
    """Collect garbage as usual from now on."""
    gc.set_threshold(*_USUAL)
