"""Where the images to predict come from: files, directories and glob patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import UserError


def _visible_images(folder: Path) -> list[Path]:
    """Images below a directory.

    Raises:
        UserError: it cannot be read.
    """
    from effvim.images import find_files

    try:
        return find_files(folder)
    except OSError as error:
        raise UserError(f'{error.filename or folder} cannot be read: {error.strerror}') from error


def find_images(inputs: Sequence[str], out: Path) -> list[Path]:
    """List the images that `inputs` name, sorted, each once.

    Args:
        inputs: files, directories (searched with all their subdirectories) or glob patterns.
        out: the output directory; images that an earlier run wrote there are skipped, unless one
            is named itself.

    Raises:
        UserError: an input names no image.
    """
    from effvim.images import IMAGE_SUFFIXES

    images = set()
    own = os.path.abspath(out)
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = _visible_images(path)
        else:
            files = (
                [path] if path.is_file() else [Path(p) for p in glob.glob(given, recursive=True)]
            )
        matches = {Path(os.path.abspath(p)) for p in files if p.is_file()}
        named = Path(os.path.abspath(given))
        matches = {p for p in matches if p == named or not p.is_relative_to(own)}
        if not matches:
            reason = (
                f'there is no image in this directory ({", ".join(IMAGE_SUFFIXES)})'
                if path.is_dir()
                else 'there is no such image or directory, and no file matches it as a pattern'
            )
            raise UserError(f'{given}: {reason}')
        images |= matches
    return sorted(images)
