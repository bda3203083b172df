"""Open the images of a dataset, and say which files in its directories are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from effvim.formats.dataset import AnnotatedImage, open_image
from effvim.formats.findings import Findings, Kind
from effvim.images import TRAINED_SUFFIXES, UNREAD_SUFFIXES, find_files


def find_images(folder: Path, findings: Findings) -> list[Path]:
    """Images below a directory; a note says which files are of kinds that are not read."""
    note_unread(find_files(folder, UNREAD_SUFFIXES), findings)
    return find_files(folder, TRAINED_SUFFIXES)


def note_unread(files: Sequence[Path], findings: Findings) -> None:
    """Say how many files are of kinds that are not read."""
    if files:
        kinds = Counter(file.suffix.lower() for file in files)
        counts = ', '.join(f'{count:,} {kind}' for kind, count in kinds.items())
        findings.note(
            f'files of kinds that are not read are ignored: {counts}, e.g. {files[0]}; convert '
            f'them to PNG or JPEG to use them'
        )


def open_images(files: Iterable[Path], top: Path, findings: Findings) -> list[AnnotatedImage]:
    """Open images, named by their path below `top`; those that cannot be decoded are defects."""
    images = []
    for file in files:
        with findings.collect(Kind.UNREADABLE, file):
            images.append(open_image(file, file.relative_to(top).as_posix()))
    return images
