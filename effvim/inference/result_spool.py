"""Results of many images, on disk until all are there: memory does not grow with their number."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from backbone.errors import UserError
from effvim.files import atomic_file


class Places(NamedTuple):
    """Where one process has put its results.

    Attributes:
        folder: the directory of its files, one for each kind of results.
        numbers: by kind: image, offset and length in bytes, one after the other.
    """

    folder: Path
    numbers: dict[str, array[int]]


class ResultSpool:
    """Files of results in the order in which they come, in a hidden directory.

    Args:
        out: the output directory; with several processes one that all of them share.
    """

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.places = Places(Path(tempfile.mkdtemp(prefix='.results-', dir=out)), {})
        self.files: dict[str, BinaryIO] = {}

    def add(self, kind: str, image: int, results: Sequence[Any]) -> None:
        """Add the results of one kind for an image.

        Raises:
            OSError: the disk is full.
        """
        if kind not in self.files:
            self.files[kind] = open(self.places.folder / kind, 'wb')  # noqa: SIM115
            self.places.numbers[kind] = array('q')
        text = ', '.join(json.dumps(result, allow_nan=False) for result in results).encode()
        if text:
            self.places.numbers[kind].extend((image, self.files[kind].tell(), len(text)))
            self.files[kind].write(text)

    def close(self) -> None:
        """Complete the files, so that other processes can read them.

        Raises:
            OSError: the disk is full.
        """
        for file in self.files.values():
            file.close()


def write_sorted(
    path: Path,
    every: Sequence[Places],
    kind: str,
    order: Callable[[int], Any],
    around: tuple[str, str] = ('[', ']\n'),
) -> None:
    """Write all results of a kind as a list of JSON.

    Args:
        path: the file.
        every: the places of all processes.
        kind: of the results.
        order: what to sort images by.
        around: what is written before and after the results.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        file.write(around[0].encode())
        for i, text in enumerate(_sorted(every, kind, order)):
            file.write(b', ' * (i > 0) + text)
        file.write(around[1].encode())


def _sorted(every: Sequence[Places], kind: str, order: Callable[[int], Any]) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        chunks: list[tuple[int, int, int, BinaryIO]] = []
        for places in every:
            numbers = places.numbers.get(kind)
            if numbers:
                file = stack.enter_context(_open(places.folder / kind))
                chunks += zip(numbers[::3], numbers[1::3], numbers[2::3], itertools.repeat(file))
        for _, offset, length, file in sorted(chunks, key=lambda chunk: order(chunk[0])):
            file.seek(offset)
            yield file.read(length)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, 'rb')
    except FileNotFoundError as error:
        raise UserError(
            f'{path} of another process is not here: choose a directory that all nodes share '
            f'with --out'
        ) from error


def remove(places: Places) -> None:
    """Delete the directory of a process."""
    shutil.rmtree(places.folder, ignore_errors=True)
