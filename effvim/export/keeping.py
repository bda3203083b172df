"""An exported file and those that belong to it, put into their places."""

from __future__ import annotations

import shutil
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.kinds import weights_of
from effvim.files import atomic_directory, write_all_atomic


def keep_files(made: Path, out: Path) -> int:
    """Write an exported file, and those that belong to it, to their place; returns the size.

    Raises:
        UserError: they cannot be written, e.g. on a full disk; what was there stays.
    """
    if made.is_dir():
        return keep_folder(made, out)
    parts = {weights_of(str(out)): weights_of(str(made))}
    if Path(f'{made}.json').exists():
        parts[Path(f'{out}.json')] = Path(f'{made}.json')
    # last: without the others it is worth nothing
    parts.pop(out, None)
    parts[out] = made
    contents = {target: source.read_bytes() for target, source in parts.items()}
    try:
        write_all_atomic(contents)
    except OSError as error:
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    return sum(map(len, contents.values()))


def keep_folder(made: Path, out: Path) -> int:
    """Write a package of Core ML, a directory, to its place; returns the size of its files.

    Raises:
        UserError: it cannot be written, e.g. on a full disk; what was there stays.
    """
    try:
        with atomic_directory(out, lambda: False) as folder:
            shutil.copytree(made, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    except OSError as error:  # shutil's have no strerror
        raise UserError(f'{out} cannot be written: {error.strerror or error}') from error
    return sum(path.stat().st_size for path in out.rglob('*') if path.is_file())
