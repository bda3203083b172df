"""`tools/infer.py`: pictures in, annotated pictures and results for programs out."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from rich.progress import Progress

    from effvim.inference.prediction import Prediction
from effvim.inference.coco_results import category_ids, coco_results


class InferenceJob:
    """Predicts and writes; results lie in the output folder as the pictures lie in theirs.

    Attributes:
        entries: of pictures done, COCO's `images`.
        found: of pictures done, COCO's results: boxes and, from networks with masks, masks.
        broken: (path, why) of pictures that could not be read.
    """

    def __init__(self, args: Namespace, paths: Sequence[Path], classes: Sequence[str]) -> None:
        self.out, self.score_thr, self.json = Path(args.out), args.score_thr, args.json
        self.paths, self.classes = paths, classes
        self.root = Path(os.path.commonpath([path.parent for path in paths]))
        # as COCO does: the number that is the file's name
        numbers = [int(p.stem) if p.stem.isdecimal() else -1 for p in paths]
        plain = -1 not in numbers and len(set(numbers)) == len(paths)
        self.ids = numbers if plain else list(range(1, len(paths) + 1))
        self.category_ids = category_ids(classes)
        self.entries: list[dict[str, Any]] = []
        self.found: list[tuple[dict[str, Any], Any]] = []
        self.broken: list[tuple[str, str]] = []

    def run(self, predictor: Any, numbers: Sequence[int]) -> None:
        """Do the pictures of these numbers; on a terminal under a bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ('pictures', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        quiet = 0 not in numbers  # another process shows its bar
        with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
            task = bar.add_task('', total=len(numbers))
            for number, found in predictor.stream(self.readable(numbers, bar)):
                self.write(number, found)
                bar.advance(task)

    def readable(self, numbers: Sequence[int], bar: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """Number and pixels of each picture; those that cannot be read are reported."""
        from effvim.images import read_image

        for number in numbers:
            try:
                yield number, read_image(self.paths[number])
            except UserError as error:
                self.broken.append((str(self.paths[number]), str(error)))
                bar.console.print(f'left out: {error}', markup=False, highlight=False)
                bar.advance(bar.task_ids[0])

    def write(self, number: int, found: Prediction) -> None:
        """The files of one picture.

        Raises:
            UserError: the disk does not let us.
        """
        from PIL import Image

        from effvim.visualization.rendering import palette

        name = self.paths[number].relative_to(self.root)
        self._save(found.draw(self.score_thr), Path('pictures') / f'{name}.png')
        if not self.json:
            return
        height, width = found.picture.shape[:2]
        entry = {'id': self.ids[number], 'file_name': str(name), 'width': width, 'height': height}
        if found.label_map is None:
            self.found += coco_results(found.above(self.score_thr), entry['id'], self.category_ids)
        else:
            few = len(self.classes) <= 256
            labels = Image.fromarray(found.label_map.astype('uint8' if few else 'uint16'))
            if few:  # colours to look at; the values are the labels
                labels.putpalette(palette(len(self.classes)).tobytes())
            self._save(labels, Path('labels') / f'{name}.png')
            entry['label_map'] = f'labels/{name}.png'
        self.entries.append(entry)

    def _save(self, image: Any, name: Path) -> None:
        buffer = io.BytesIO()
        image.save(buffer, 'PNG')
        self._write(name, buffer.getvalue())

    def _write(self, name: str | Path, data: bytes) -> None:
        from effvim.files import write_atomic

        try:
            write_atomic(self.out / name, data)
        except OSError as error:
            raise UserError(
                f'{self.out / name} cannot be written: {error.strerror}; choose '
                f'another folder with --out'
            ) from error

    def finish(self) -> None:
        """Write what is about all pictures; say what was done and what was not."""
        segments = any('label_map' in entry for entry in self.entries)
        if self.json:
            ids = range(len(self.classes)) if segments else self.category_ids
            categories = [{'id': i, 'name': name} for i, name in zip(ids, self.classes)]
            entries = sorted(self.entries, key=lambda entry: entry['file_name'])
            self._write_json('images.json', {'images': entries, 'categories': categories})
            found = sorted(self.found, key=lambda pair: pair[0]['image_id'])
            if not segments:
                self._write_json('detections.bbox.json', [box for box, _ in found])
            if found and found[0][1]:
                self._write_json('detections.segm.json', [mask for _, mask in found])
        done = len(self.paths) - len(self.broken)
        print(f'{done} of {len(self.paths)} pictures done; results: {self.out}')
        if self.broken:
            print(f'{len(self.broken)} could not be read:', file=sys.stderr)
        for _, why in sorted(self.broken):
            print(f'  {why}', file=sys.stderr)

    def _write_json(self, name: str, content: Any) -> None:
        self._write(name, (json.dumps(content, allow_nan=False) + '\n').encode())
