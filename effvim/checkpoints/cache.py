"""The directory of fetched weights: where a file is, what is remembered of it, and its lock."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints.published import PublishedWeights
from effvim.files import write_atomic


@dataclasses.dataclass(frozen=True)
class Record:
    """What is remembered of weights that were fetched; it stays when the file is deleted.

    Attributes:
        url: where they came from.
        sha256: of the published file.
        size: of the published file, in bytes.
        converted_sha256: of the file in the cache.
        converted_size: of the file in the cache, in bytes.
    """

    url: str
    sha256: str
    size: int
    converted_sha256: str
    converted_size: int


def directory() -> Path:
    """The directory of the weights: in `EFFVIM_CACHE`, or effvim in the user's cache directory."""
    chosen = os.environ.get('EFFVIM_CACHE')
    user = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return (Path(chosen).expanduser() if chosen else Path(user) / 'effvim').absolute() / 'weights'


def path_of(weights: PublishedWeights) -> Path:
    """The converted file, whether it is there or not."""
    return directory() / f'{weights.name}.safetensors'


def by_hand(weights: PublishedWeights) -> Path:
    """Where a published file that was downloaded by hand is looked for."""
    return directory() / 'downloads' / weights.file


def partial(weights: PublishedWeights) -> Path:
    """The published file while it is downloaded and verified."""
    return directory() / 'partial' / weights.file


def record_path(weights: PublishedWeights) -> Path:
    """The file of what is remembered of weights."""
    return directory() / f'{weights.name}.json'


def remembered(weights: PublishedWeights) -> Record | None:
    """What is remembered of weights; None if they were never fetched.

    Raises:
        UserError: the file is corrupt.
    """
    path = record_path(weights)
    try:
        return Record(**json.loads(path.read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f'{path} cannot be read: {error}; delete it and fetch again') from error


def remember(weights: PublishedWeights, record: Record) -> None:
    """Write what is remembered of weights."""
    text = json.dumps(dataclasses.asdict(record), indent=2)
    write_atomic(record_path(weights), text.encode())


def is_cached(weights: PublishedWeights) -> bool:
    """Whether the converted file is there, whole; its bytes are not read, see `fetching.verify`."""
    path = path_of(weights)
    if not path.is_file():
        return False
    record = remembered(weights)
    return record is not None and path.stat().st_size == record.converted_size


@contextlib.contextmanager
def locked(weights: PublishedWeights) -> Iterator[None]:
    """Keep other processes from fetching the same weights; waits for one that does.

    Raises:
        UserError: the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    path = partial(weights).parent / f'{weights.name}.lock'
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            console.note(f'waiting for another process that fetches {weights.name}')
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise UserError(
            f'{weights.name} cannot be fetched: the cache {directory()} cannot be written '
            f'({getattr(error, "strerror", None) or error}): set EFFVIM_CACHE to another directory'
        ) from error
    try:
        yield
    finally:
        lock.release()
