"""Write files and directories so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from backbone.errors import UserError

WINDOWS = os.name == 'nt'

CHUNK = 2**20  # bytes that are read at once

STALE_AFTER = 24 * 3600  # seconds after which a killed process's unfinished directory is removed


def write_atomic(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write a file atomically: at any moment `path` is the old file or the whole new one.

    The new content is written to a temporary file next to `path`, synced to disk, verified, and
    renamed.

    Raises:
        OSError: the disk is full, or does not hold what was written; `path` is as before.
    """
    with atomic_file(path) as file:
        _write_verified(file, parts)


def write_all_atomic(contents: dict[Path, bytes]) -> None:
    """Write several files as `write_atomic` does; all are on the disk before any gets its name.

    They get their names in the order of `contents`.

    Raises:
        OSError: the disk is full, or does not hold what was written; all files are as before,
            unless one cannot be replaced, e.g. by a directory of its name.
    """
    with contextlib.ExitStack() as files:
        for path, content in reversed(contents.items()):
            _write_verified(files.enter_context(atomic_file(path)), [content])


def _write_verified(file: BinaryIO, parts: Sequence[bytes | memoryview]) -> None:
    file.writelines(parts)
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, 'posix_fadvise'):  # verify what is on the disk, not what is in memory
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    for part in parts:
        for start in range(0, len(part), CHUNK):
            chunk = memoryview(part)[start : start + CHUNK]
            if file.read(len(chunk)) != chunk:
                raise OSError(errno.EIO, 'the disk does not hold what was written', file.name)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes `path` at the end of the block, synced to disk.

    After an exception `path` is as before.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name[:40]}.', dir=path.parent)
    try:
        os.close(handle)
        with open(name, 'w+b') as file:  # by its name, which libraries that write it need
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    _sync_directory(path.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    """Make a rename in a directory survive a power failure."""
    if WINDOWS:  # where a directory cannot be opened
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a directory to write into, which becomes `target` unless the block raises.

    Raises:
        UserError: `target` exists already, or cannot be created or written; nothing is left there.
    """

    def check_target() -> bool:
        check_is_new(target)
        return False

    check_target()
    try:
        with atomic_directory(target, check_target) as directory:
            yield directory
    except OSError as error:
        raise UserError(f'{target} cannot be written: {error}; nothing is left there') from error


@contextlib.contextmanager
def atomic_directory(target: Path, is_done: Callable[[], bool]) -> Iterator[Path]:
    """Yield an empty directory that replaces `target` at the end; after an exception none is left.

    Any number of processes may write the same `target` at once.

    Args:
        target: may exist; the old directory is deleted once the new one is in its place.
        is_done: called before each attempt to put the directory in place. True: another process
            was quicker, `target` stays. It raises if `target` must not be replaced.

    Raises:
        OSError: `target` cannot be created or replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'.{target.name}-writing-'
    _remove_stale(target.parent, prefix)
    # Next to the target, so that renaming needs no copy. mkdtemp's own directory is private (mode
    # 0700); the one inside it has the usual permissions.
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        new = work / 'new'
        new.mkdir()
        yield new
        _put_in_place(new, target, is_done, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(new: Path, target: Path, is_done: Callable[[], bool], work: Path) -> None:
    for attempt in range(10):
        if is_done():
            return
        try:
            if target.exists():
                os.rename(target, work / f'replaced-{attempt}')
            os.rename(new, target)
            return
        except OSError as error:  # another process was quicker: look again
            failure = error
    raise failure


def _remove_stale(directory: Path, prefix: str) -> None:
    """Remove what processes killed long ago left in `directory`; younger ones may be at work."""
    with contextlib.suppress(OSError):  # another process may remove the same
        for path in directory.iterdir():
            if path.name.startswith(prefix) and time.time() - path.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(path, ignore_errors=True)


def check_is_new(target: Path) -> None:
    """Check that a directory can be created under this name.

    Raises:
        UserError: it exists already.
    """
    try:
        exists = target.exists() or target.is_symlink()
    except OSError as error:
        raise UserError(f'{target} cannot be created: {error.strerror}') from error
    if exists:
        raise UserError(f'{target} exists: name a new directory, nothing is overwritten')


def ensure_writable(directory: Path, flag: str) -> Path:
    """Create a directory if needed, check that it can be written to, and return it.

    Args:
        directory: the directory.
        flag: the option that chooses another one, for the message.

    Raises:
        UserError: it cannot be created or written to.
    """
    probe = directory / f'.writable-{os.getpid()}'
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # of another machine's process with the same number
    except OSError as error:
        raise UserError(
            f'directory {directory} cannot be written: {error.strerror}; choose another with {flag}'
        ) from error
    return directory


def numbered_lines(path: Path) -> dict[int, str]:
    """Read the non-empty lines of a text file, by line number from 1.

    Raises:
        UserError: it is not text. OSError: it cannot be read.
    """
    try:
        text = path.read_text('utf-8-sig')  # some editors write a byte order mark
    except ValueError as error:
        raise UserError(f'{path} is not text in UTF-8: {error}; save it in UTF-8') from error
    return {i: line for i, line in enumerate(text.splitlines(), 1) if line.strip()}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
