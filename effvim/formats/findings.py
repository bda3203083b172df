"""What reading a dataset showed: its defects, all of them in one run, and what was assumed."""

from __future__ import annotations

import contextlib
import enum
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from backbone.errors import UserError
from effvim import console
from effvim.files import write_atomic
from effvim.formats.dataset import Dataset

EXAMPLES = 3  # of each kind of defect, in a message


class Kind(enum.Enum):
    """Kinds of defects, by which they are counted; the value continues "3 …"."""

    NOT_FOUND = 'images not found'
    UNREADABLE = 'images cannot be decoded'
    SIZE = 'images have another size than stated'
    NO_ANNOTATION = 'images have no annotation file'
    NO_IMAGE = 'annotation files have no image'
    ANNOTATION = 'annotations cannot be read'
    BOX = 'boxes are wrong'
    MASK = 'masks are wrong'
    SHARED = 'images are in several splits'


class Defect(NamedTuple):
    """One defect.

    Attributes:
        kind: by which it is counted.
        text: what is wrong, where, and what to do.
        image: the image that is skipped with it; None if it belongs to none.
    """

    kind: Kind
    text: str
    image: Path | None


class Findings:
    """Collects the defects of a dataset and the notes about it while it is read."""

    def __init__(self) -> None:
        self.defects: list[Defect] = []
        self.notes: list[str] = []
        self._counts: dict[str, list[str]] = {}

    def add(self, kind: Kind, text: str, image: Path | None = None) -> None:
        """Add a defect, see `Defect`."""
        self.defects.append(Defect(kind, text, image))

    @contextlib.contextmanager
    def collect(self, kind: Kind, image: Path | None = None) -> Iterator[None]:
        """Take a `UserError` that the block raises as a defect, see `Defect`."""
        try:
            yield
        except UserError as error:
            self.add(kind, str(error), image)

    def note(self, text: str) -> None:
        """Add something worth knowing."""
        self.notes.append(text)

    def assume(self, what: str, where: object) -> None:
        """Count something that was assumed; `what` continues "3 …"."""
        self._counts.setdefault(what, []).append(str(where))

    def all_notes(self) -> list[str]:
        """The notes, and a line for each kind of assumption with its number and an example."""
        return self.notes + [
            f'{len(places):,} {what}, e.g. {places[0]}' for what, places in self._counts.items()
        ]

    def settle(self, dataset: Dataset, skip: bool, limit: float) -> Dataset:
        """Return the dataset without its invalid images, if that is wanted.

        An image with an invalid annotation is skipped as a whole: its object would be trained as
        background.

        Args:
            dataset: as it was read, without what could not be read at all.
            skip: skip what is invalid; otherwise it is an error.
            limit: fraction of the images that may be skipped.

        Raises:
            UserError: there are defects and `skip` is False, too many would be skipped, nothing
                would be left of a split, or there is nothing to learn. A list of all defects is
                written if there are several.
        """
        if self.defects and not skip:
            raise UserError(self._refusal(dataset.source))
        valid = self._without_invalid(dataset, limit) if self.defects else dataset
        problem = _nothing_to_learn(valid)
        if problem and self.defects:
            summary = self._summary(dataset.source)
            raise UserError(f'{dataset.source}: without invalid images {problem}: {summary}')
        if problem:
            raise UserError(
                f'{dataset.source}: {problem}, there is nothing to learn: are the annotations '
                f'where the format expects them?'
            )
        return valid

    def _without_invalid(self, dataset: Dataset, limit: float) -> Dataset:
        """The dataset without its invalid images, see `settle`."""
        invalid = {defect.image for defect in self.defects if defect.image}
        alone = sum(defect.image is None for defect in self.defects)
        paths = {image.path for images in dataset.splits.values() for image in images}
        fraction = (len(invalid) + alone) / (len(paths | invalid) + alone)
        if fraction > limit:
            raise UserError(
                f'{dataset.source}: {fraction:.0%} of the images are invalid, and --skip-invalid '
                f'skips at most {limit:.0%} (--max-invalid): {self._summary(dataset.source)}'
            )
        splits = {
            split: [image for image in images if image.path not in invalid]
            for split, images in dataset.splits.items()
        }
        empty = [split for split, images in splits.items() if not images]
        if empty:
            raise UserError(
                f'{dataset.source}: without invalid images the split {empty[0]} is empty: '
                f'{self._summary(dataset.source)}'
            )
        self.note(f'skipped {len(invalid):,} images: {self._summary(dataset.source)}')
        return dataset._replace(splits=splits)

    def _refusal(self, source: Path) -> str:
        if len(self.defects) == 1:
            return self.defects[0].text
        return (
            f'{source} has {len(self.defects):,} defects: {self._summary(source)}; fix them, or '
            f'skip these images with --skip-invalid'
        )

    def _summary(self, source: Path) -> str:
        """The number of defects by kind, with examples, and the file with the complete list."""
        texts = []
        for kind, count in Counter(defect.kind for defect in self.defects).items():
            own = [defect.text for defect in self.defects if defect.kind is kind]
            examples = '; '.join(own[:EXAMPLES])
            texts.append(f'{count:,} {kind.value}: {examples}{" …" if count > EXAMPLES else ""}')
        if len(self.defects) > 1:
            texts.append(f'complete list: {write_list(self.defects, source)}')
        return '. '.join(texts)


def _nothing_to_learn(dataset: Dataset) -> str:
    """Why there is nothing to learn from a dataset; '' if there is something."""
    images = dataset.images()
    labels = {instance.label for image in images for instance in image.instances}
    if len(labels) < 2 and any(image.mask for image in images):
        only = ''.join(f'the class {dataset.classes[label]!r}' for label in labels)
        return f'the masks hold only {only or "pixels that are ignored"}'
    return '' if labels else 'no image has an instance'


def write_list(defects: Sequence[Defect], source: Path) -> Path:
    """Write a line for each defect to a file in the current directory; return its path.

    Where that cannot be written, it is one in the system's temporary directory.
    """
    folder_name = (source if source.is_dir() else source.parent).resolve().name
    name = f'{folder_name}_defects.txt'
    text = ''.join(f'{defect.kind.value}\t{" ".join(defect.text.split())}\n' for defect in defects)
    for folder in (Path(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            write_atomic(folder / name, text.encode('utf-8', 'backslashreplace'))
            return folder / name
    console.warn(f'{os.getcwd()} cannot be written: the list of defects is not written')
    return Path(name)
