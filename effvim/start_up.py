"""Imports without Python's garbage collector.

It looks through all objects again and again while thousands of modules are loaded, where hardly
one is garbage: a fifth of the start-up of a command. It runs as usual as soon as a network is built.
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
