"""TODO effvim.inference.sources."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError

if TYPE_CHECKING:
    pass


def find_images(inputs: Sequence[str], out: Path) -> list[Path]:
    """The pictures that `inputs` name, each once, sorted; none of an earlier run's in `out`.

    Raises:
        UserError: an input that names none.
    """
    from effvim.images import IMAGE_SUFFIXES

    found = set()
    own = os.path.abspath(out)
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [
                p for p in path.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
            ]
        else:
            files = (
                [path]
                if path.is_file()
                else [p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file()]
            )
        named = {Path(os.path.abspath(p)) for p in files}
        named = {p for p in named if path == p or not p.is_relative_to(own)}
        if not named:
            what = (
                f'there is no picture ({", ".join(IMAGE_SUFFIXES)})'
                if path.is_dir()
                else ('there is no such picture, folder or match')
            )
            raise UserError(f'{given}: {what}')
        found |= named
    return sorted(found)
