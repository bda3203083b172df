"""`tools/infer.py`: pictures in, annotated pictures and results for programs out."""

from __future__ import annotations

import glob
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

from . import processes
from .cli import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from rich.progress import Progress

    from .prediction import Prediction


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser('tools/infer.py', 'Find objects or classes in pictures.', data=False)
    parser.add_argument('checkpoint', help='the checkpoint; it knows how it was trained')
    parser.add_argument(
        'inputs', nargs='+', metavar='IMAGE|DIR|GLOB',
        help='a picture, a folder with all its sub-folders, or a pattern such as "a/*.jpg"',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='where results go')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, metavar='S',
        help='leave out objects of lower score (default 0.3)',
    )
    parser.add_argument(
        '--json', action='store_true',
        help='write results for programs too: COCO results, or label maps as PNG',
    )
    parser.add_argument(
        '--batch', type=int, default=1, metavar='N',
        help='pictures that the network sees at once, if of one size (default 1)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit status, 1 if a picture could not be read.

    Raises:
        UserError: a mistake in it, in the config or the checkpoint.
    """
    args = parse(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    processes.read_environment(args.launcher)
    paths = prepare(args)
    with processes.joined(args.launcher, backend='gloo', timeout=86400):
        return run(args, paths)


def run(args: Namespace, paths: Sequence[Path]) -> int:
    """Do what `main` says, together with the other processes if there are any."""
    from mmengine import dist

    from .predictor import Predictor

    rank, number = dist.get_dist_info()
    predictor = Predictor(
        args.config, args.checkpoint, batch_size=args.batch, options=args.cfg_options,
        mini=args.mini, from_scratch=args.from_scratch)
    job = Job(args, paths, predictor.classes)
    job.run(predictor, range(rank, len(paths), number))
    parts = dist.all_gather_object((job.entries, job.found, job.broken))
    job.entries, job.found, job.broken = ([x for p in part for x in p] for part in zip(*parts))
    if rank == 0:
        job.finish()
    return 1 if job.broken else 0


def prepare(args: Namespace) -> list[Path]:
    """The pictures, all checked that can be before anything is loaded.

    Raises:
        UserError: a flag out of its range, nothing found, or a folder that cannot be written.
    """
    from . import config

    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr must be from 0 to 1, got {args.score_thr}')
    if args.batch < 1:
        raise UserError(f'--batch must be at least 1, got {args.batch}')
    for path in (args.config, args.checkpoint):
        if not Path(path).is_file():
            raise UserError(f'{path} not found: give a config, a checkpoint, then pictures')
    paths = find(args.inputs, Path(args.out))
    config.writable(Path(args.out), '--out')
    return paths


def find(inputs: Sequence[str], out: Path) -> list[Path]:
    """The pictures that `inputs` name, each once, sorted; none of an earlier run's in `out`.

    Raises:
        UserError: an input that names none.
    """
    from .pictures import SUFFIXES

    found = set()
    own = os.path.abspath(out)
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = [p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES and p.is_file()]
        else:
            files = [path] if path.is_file() else [
                p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file()]
        named = {Path(os.path.abspath(p)) for p in files}
        named = {p for p in named if path == p or not p.is_relative_to(own)}
        if not named:
            what = f'there is no picture ({", ".join(SUFFIXES)})' if path.is_dir() else (
                'there is no such picture, folder or match')
            raise UserError(f'{given}: {what}')
        found |= named
    return sorted(found)


class Job:
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

    def readable(
        self, numbers: Sequence[int], bar: Progress
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Number and pixels of each picture; those that cannot be read are reported."""
        from . import pictures

        for number in numbers:
            try:
                yield number, pictures.read(self.paths[number])
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

        from .prediction import palette

        name = self.paths[number].relative_to(self.root)
        self._save(found.draw(self.score_thr), Path('pictures') / f'{name}.png')
        if not self.json:
            return
        height, width = found.picture.shape[:2]
        entry = {'id': self.ids[number], 'file_name': str(name), 'width': width, 'height': height}
        if found.label_map is None:
            self.found += results(found.above(self.score_thr), entry['id'], self.category_ids)
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
        from .checkpoint import write_whole

        try:
            write_whole(self.out / name, data)
        except OSError as error:
            raise UserError(f'{self.out / name} cannot be written: {error.strerror}; choose '
                            f'another folder with --out') from error

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


def category_ids(classes: Sequence[str]) -> list[int]:
    """COCO's own ids for COCO's 80 classes, 1, 2, 3 … for others."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    if list(classes) == [name for name in names[1:] if name != 'N/A']:
        return [names.index(name) for name in classes]
    return list(range(1, len(classes) + 1))


def results(
    found: Prediction, image_id: int, ids: Sequence[int]
) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """COCO's results of one picture: for each object that of its box, and that of its mask."""
    import numpy as np
    from pycocotools import mask as rle

    entries = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        about = {'image_id': image_id, 'category_id': ids[found.labels[i]],
                 'score': float(found.scores[i])}
        masked = None
        if found.masks is not None:
            code = rle.encode(np.asfortranarray(found.masks[i], np.uint8))
            masked = {**about, 'segmentation': {**code, 'counts': code['counts'].decode()}}
        entries.append(({**about, 'bbox': [x1, y1, x2 - x1, y2 - y1]}, masked))
    return entries
