"""TODO effvim.files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.checkpoint import CHUNK


def ensure_writable(folder: Path, flag: str) -> Path:
    """`folder`, made and tried.

    Raises:
        UserError: it cannot be made or written to; names the flag that chooses another.
    """
    probe = folder / f'.writable-{os.getpid()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f'folder {folder} cannot be written: {error.strerror}; choose another with {flag}'
        ) from error
    return folder


def write_atomic(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write beside, sync, read back, rename: at any moment `path` is the old file or the new one.

    Raises:
        OSError: the disk is full, or does not hold what was written; `path` is as before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'w+b') as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, 'posix_fadvise'):  # read from the disk, not from memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            for part in parts:
                for start in range(0, len(part), CHUNK):
                    chunk = memoryview(part)[start : start + CHUNK]
                    if file.read(len(chunk)) != chunk:
                        raise OSError(errno.EIO, 'what was written reads back otherwise', path)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def numbered_lines(path: Path) -> dict[int, str]:
    """Lines of a text file that are not empty, by number from 1.

    Raises:
        UserError: it is no text. OSError: it cannot be read.
    """
    try:
        text = path.read_text('utf-8-sig')  # some editors begin with a mark
    except ValueError as error:
        raise UserError(f'{path} is not text in UTF-8: {error}') from error
    return {i: line for i, line in enumerate(text.splitlines(), 1) if line.strip()}


def check_is_new(target: Path) -> None:
    """See that a folder can be made.

    Raises:
        UserError: it is there already.
    """
    try:
        there = target.exists() or target.is_symlink()
    except OSError as error:
        raise UserError(f'{target} cannot be made: {error.strerror}') from error
    if there:
        raise UserError(f'{target} exists: name a new folder, nothing is overwritten')


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` if all went well; otherwise nothing is left.

    Raises:
        UserError: `target` is there already, or cannot be made.
    """
    check_is_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # mkdtemp's own folder is private (mode 0700), the one inside it gets the usual rights
        work = Path(tempfile.mkdtemp(prefix=f'.{target.name}-', dir=target.parent))
    except OSError as error:
        raise UserError(f'{target} cannot be made: {error.strerror}') from error
    try:
        inside = work / 'new'
        inside.mkdir()
        yield inside
        os.rename(inside, target)
    except OSError as error:
        raise UserError(f'{target} cannot be written: {error}; nothing is left there') from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
