"""PyAV, which is optional, and its errors in one line."""

from __future__ import annotations

import os
from types import ModuleType

from effvim.video.settings import check_installed


def load() -> ModuleType:
    """PyAV, which prints none of FFmpeg's messages unless it is told to.

    Raises:
        UserError: it is not installed.
    """
    check_installed()

    os.environ.setdefault('SVT_LOG', '1')  # only errors of the encoder of AV1

    import av

    return av


def reason(error: Exception) -> str:
    """What an error of FFmpeg says, without its number and file."""
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__
