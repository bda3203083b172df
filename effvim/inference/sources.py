"""What can be predicted: images, videos, cameras and streams, named one by one or in lists."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from backbone.errors import UserError

# A file that is named and has none of these, nor LIST_SUFFIX, is read as an image.
VIDEO_SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts'),
    *('.ogv', '.ts', '.webm', '.wmv'),
)

LIST_SUFFIX = '.txt'

SCHEMES = ('http', 'https', 'rtsp', 'rtsps')

STANDARD_INPUT = '-'


@dataclasses.dataclass
class Sources:
    """What the words of a command line name.

    Attributes:
        images: image files, sorted, each once.
        videos: video files, sorted, each once.
        live: numbers of cameras and addresses of streams, in the order in which they were given.
        unreadable: why lines of lists name nothing.
    """

    images: list[Path] = dataclasses.field(default_factory=list)
    videos: list[Path] = dataclasses.field(default_factory=list)
    live: list[str] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)


def find_sources(inputs: Sequence[str], out: Path, standard_input: TextIO | None = None) -> Sources:
    """List what `inputs` name.

    Args:
        inputs: images, videos, directories (searched with all their subdirectories), glob patterns,
            the number of a camera, addresses (`SCHEMES`), text files of paths (*.txt), and '-' for
            paths on `standard_input`. Lists hold one file, directory or pattern a line, relative
            to the current directory or else to that of the list.
        out: the output directory; what an earlier run wrote there is skipped, unless it is named
            itself.
        standard_input: what '-' stands for.

    Raises:
        UserError: an input names nothing, or a list cannot be read.
    """
    sources, files = Sources(), set[Path]()
    for given in inputs:
        path = Path(given)
        if is_live(given):
            if given not in sources.live:
                sources.live.append(given)
        elif given == STANDARD_INPUT or (
            path.suffix.lower() == LIST_SUFFIX and os.path.isfile(path)
        ):
            files |= _listed(given, out, standard_input, sources.unreadable)
        else:
            files |= _named(given, out)
    for file in sorted(files):
        (sources.videos if is_video(file) else sources.images).append(file)
    return sources


def is_video(path: Path) -> bool:
    """Whether a file counts as a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_address(word: str) -> bool:
    """Whether a word is the address of a stream."""
    return '://' in word and urlsplit(word).scheme.lower() in SCHEMES


def is_live(word: str) -> bool:
    """Whether a word is the address of a stream or the number of a camera, not an existing file."""
    return is_address(word) or (word.isdecimal() and not os.path.exists(word))


def public_name(source: str) -> str:
    """A camera or an address as it may be shown and stored: without user, password and query."""
    if not is_address(source):
        return f'camera {source}'
    parts = urlsplit(source)
    return f'{parts.scheme}://{parts.netloc.rpartition("@")[2]}{parts.path}'


def file_name(source: str) -> str:
    """A file name for the results of a camera or a stream."""
    name = public_name(source).rpartition('://')[2]
    return re.sub(r'[^\w.-]+', '-', name).strip('-.')


def output_stems(paths: Sequence[Path]) -> list[str]:
    """Names for what is written of files: their paths below their common directory, no suffix.

    A file keeps its suffix where two would get the same name; if that name is taken, all do.
    """
    if not paths:
        return []
    root = os.path.commonpath([path.parent for path in paths])
    relative = [path.relative_to(root) for path in paths]
    uses = Counter(path.with_suffix('') for path in relative)
    stems = [path if uses[path.with_suffix('')] > 1 else path.with_suffix('') for path in relative]
    return [path.as_posix() for path in (stems if len(set(stems)) == len(stems) else relative)]


def _named(given: str, out: Path) -> set[Path]:
    """The files that a path or pattern names.

    Raises:
        UserError: it names none.
    """
    path, own = Path(given), os.path.abspath(out)
    if os.path.isdir(path):  # Path.is_dir raises where a name is too long
        files = _visible_files(path)
    else:
        files = (
            [path] if os.path.isfile(path) else [Path(p) for p in glob.glob(given, recursive=True)]
        )
    matches = {Path(os.path.abspath(p)) for p in files if p.is_file()}
    named = Path(os.path.abspath(given))
    others = {p for p in matches if p == named or not p.is_relative_to(own)}
    if others:
        return others
    if matches:
        raise UserError(
            f'{given}: all of its files are in the output directory {out}, where they are taken '
            f'for results: choose another one with --out'
        )

    from effvim.images import IMAGE_SUFFIXES

    raise UserError(
        f'{given}: there is no image or video in this directory '
        f'({", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))})'
        if os.path.isdir(path)
        else f'{given}: there is no such image, video or directory, and no file matches it as a '
        f'pattern'
    )


def _visible_files(folder: Path) -> list[Path]:
    """Images and videos below a directory.

    Raises:
        UserError: it cannot be read.
    """
    from effvim.images import IMAGE_SUFFIXES, find_files

    try:
        return find_files(folder, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    except OSError as error:
        raise UserError(f'{error.filename or folder} cannot be read: {error.strerror}') from error


def _listed(
    given: str, out: Path, standard_input: TextIO | None, unreadable: list[str]
) -> set[Path]:
    """The files that the lines of a list name; lines that name none are added to `unreadable`.

    Raises:
        UserError: the list cannot be read, or is empty.
    """
    if given == STANDARD_INPUT:
        title, folder = 'standard input', Path()
        lines = _standard_lines(standard_input)
    else:
        title, folder = given, Path(given).parent
        lines = _lines(Path(given))
    if not lines:
        raise UserError(f'{title} is empty: it takes a path a line')
    files = set[Path]()
    for number, line in lines.items():
        word = line.strip()
        try:
            files |= _from_list(word, folder, out)
        except (UserError, ValueError) as error:  # ValueError: a null character
            unreadable.append(f'{title}, line {number}: {error}')
    return files


def _from_list(word: str, folder: Path, out: Path) -> set[Path]:
    try:
        return _named(word, out)
    except UserError:
        if Path(word).is_absolute() or folder == Path():
            raise
        if os.path.exists(path := str(folder / word)):
            return _named(path, out)
        pattern = os.path.join(glob.escape(str(folder)), word)
        if not glob.glob(pattern, recursive=True):
            raise
        return _named(pattern, out)


def _lines(path: Path) -> dict[int, str]:
    from effvim.files import numbered_lines

    try:
        return numbered_lines(path)
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error


def _standard_lines(standard_input: TextIO | None) -> dict[int, str]:
    if standard_input is None:
        raise UserError('-: there is no standard input here: name the files')
    try:
        return {i: line for i, line in enumerate(standard_input, 1) if line.strip()}
    except ValueError as error:
        raise UserError(f'standard input is not text in UTF-8: {error}') from error
