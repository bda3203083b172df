"""Directories of results: what an earlier command wrote there is replaced, other files are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbone.errors import UserError
from effvim.images import is_hidden

MARK = '.effvim-results'  # a file, in every directory of results


def check(folder: Path) -> None:
    """Check that no file of the user's could be replaced in a directory.

    Raises:
        UserError: it holds files, and was not made for results.
    """
    if not folder.is_dir() or (folder / MARK).exists():
        return
    if any(not is_hidden(path.name) for path in folder.iterdir()):
        raise UserError(
            f'{folder} holds files that effvim infer has not written and might replace: choose '
            f'another directory with --out, or remove {folder}'
        )


def check_files(folder: Path, results: Path, names: Sequence[str]) -> None:
    """Check that files of a directory are those of an earlier command.

    Args:
        folder: the directory, which may hold anything.
        results: the directory of results that every such command makes.
        names: of the files.

    Raises:
        UserError: one exists without `results`.
    """
    for name in names:
        if (folder / name).exists() and not (results / MARK).exists():
            raise UserError(
                f'{folder / name} would be replaced, and effvim infer has not written it: choose '
                f'another directory with --out'
            )


def claim(folder: Path) -> None:
    """Create a directory for results.

    Raises:
        OSError: it cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
