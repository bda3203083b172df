"""Plots as files; importing this loads no matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError
from effvim.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_kind(path: Path, flag: str) -> None:
    """Check that a plot can be written under this name.

    Args:
        path: the file.
        flag: the option that named it, for the message.

    Raises:
        UserError: its suffix is none of the supported ones.
    """
    if path.suffix.lower() not in ('.png', '.svg', '.pdf'):
        raise UserError(f'{flag} {path}: pass a file that ends in .png, .svg or .pdf')


def write_plot(figure: Figure, path: Path, dpi: int) -> None:
    """Write a plot atomically, see `write_atomic`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=dpi)
    write_atomic(path, buffer.getvalue())
