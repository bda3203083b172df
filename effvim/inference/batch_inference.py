"""Predict many image files: annotated images for people, results for programs."""

from __future__ import annotations

import contextlib
import functools
import io
import json as jsonlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.files import write_atomic
from effvim.images import encode_drawing, name_of_drawing
from effvim.inference import result_folders
from effvim.inference.annotation_ids import ids_of
from effvim.inference.coco_results import category_ids, coco_results
from effvim.inference.overlap import ahead
from effvim.inference.prediction import labels_of
from effvim.inference.result_spool import Places, ResultSpool, remove, write_sorted
from effvim.inference.saved_formats import save_as
from effvim.inference.sources import output_stems

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress

    from effvim.inference.prediction import Prediction
    from effvim.inference.predictor import Predictor

JSON_FILES = ('images.json', 'detections.bbox.json', 'detections.segm.json')
LARGEST = 10_000  # pixels of the longer side of an annotated image


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    score_thr: float = 0.3,
    classes: Sequence[str] = (),
    json: bool = False,
    annotations: Path | None = None,
    formats: Sequence[str] = (),
    rank: int = 0,
    world_size: int = 1,
) -> list[str]:
    """Predict image files, and write the results in the directory tree of the images.

    Files in `out`: `images/NAME`, annotated, at most 10,000 pixels long (`NAME.png` if the image
    is neither JPEG nor PNG); with `json` also `images.json` and, of detectors,
    `detections.bbox.json` and `detections.segm.json`, of segmentors `labels/NAME.png`; and those
    of `formats`, see `saved_formats`.

    Args:
        predictor: the network.
        paths: the images.
        out: the output directory.
        score_thr: objects that score lower are dropped.
        classes: names of the classes that are kept (default: all).
        json: also write results for programs: COCO's results or label maps.
        annotations: COCO's annotation file whose ids the results have (default: that of the
            images' directory, see `annotation_ids`; without one the numbers in the files' names,
            or 1, 2, 3 …).
        formats: formats of other programs to write, of `saved_formats.FORMATS`.
        rank: of this process; each predicts every `world_size`-th image.
        world_size: number of processes. All call this function with the same images.

    Returns:
        For each image that could not be read, on every rank: why not, with its path.

    Raises:
        UserError: a file cannot be written, would replace one that is not a result, or
            `annotations` does not fit.
    """
    job = InferenceJob(
        paths,
        out,
        predictor.classes,
        score_thr=score_thr,
        only=classes,
        json=json,
        annotations=annotations,
        formats=formats,
        segments=predictor.network.segments,
    )
    try:
        job.run(predictor, range(rank, len(paths), world_size))
        outcomes = [job.outcome()]
        if world_size > 1:
            from mmengine.dist import all_gather_object

            outcomes = all_gather_object(outcomes[0])
        if rank == 0:
            job.finish(outcomes)
    except BaseException:
        job.remove_spool()
        raise
    return sorted(why for outcome in outcomes for why in outcome.unreadable)


class Outcome(NamedTuple):
    """What one process has done.

    Attributes:
        places: where its results are; None without JSON.
        unreadable: why images could not be read, with their paths.
        whole: number of images that were to be predicted in tiles and are no larger than one.
    """

    places: Places | None
    unreadable: list[str]
    whole: int


class InferenceJob:
    """Predicts images and writes the results; arguments as of `predict_files`."""

    def __init__(
        self,
        paths: Sequence[Path],
        out: Path,
        classes: Sequence[str],
        *,
        score_thr: float = 0.3,
        only: Sequence[str] = (),
        json: bool = False,
        annotations: Path | None = None,
        formats: Sequence[str] = (),
        segments: bool = False,
    ) -> None:
        self.segments = segments
        self.formats, self.stems = formats, output_stems(paths)
        self.paths, self.out, self.classes = paths, out, classes
        self.score_thr, self.json = score_thr, json
        self.labels = labels_of(only, classes) if only else None
        self.root = Path(os.path.commonpath([path.parent for path in paths]))
        kinds_of_files = ['images', *formats, *['labels'] * (json and segments)]
        self.folders = [out / kind for kind in kinds_of_files]
        self._refuse_to_replace()
        known = ids_of(paths, self.root, classes, annotations) if json else None
        if known:
            self.ids, self.category_ids = known
        else:
            # as in COCO: the number that is the file's name
            numbers = [int(p.stem) if p.stem.isdecimal() else -1 for p in paths]
            unique = -1 not in numbers and len(set(numbers)) == len(paths)
            self.ids = numbers if unique else list(range(1, len(paths) + 1))
            self.category_ids = category_ids(classes) if json else []
        self.unreadable: list[str] = []
        self.whole = 0
        self.spool = ResultSpool(out) if json else None

    def _refuse_to_replace(self) -> None:
        """Check that results would replace none of the images, no other file, and one another."""
        for folder in self.folders:
            result_folders.check(folder)
        if self.json:
            result_folders.check_files(self.out, self.out / 'images', JSON_FILES)
        real = functools.cache(os.path.realpath)  # of directories, which may be links
        sources = {Path(os.path.realpath(path)) for path in self.paths}
        targets: dict[Path, Path] = {}
        for index, path in enumerate(self.paths):
            drawing = self.out / self._drawing(index)
            target = Path(real(drawing.parent), drawing.name)
            if target in sources:
                raise UserError(
                    f'{target} would be replaced by an annotated image: choose another directory '
                    f'with --out'
                )
            if (other := targets.setdefault(target, path)) is not path:
                raise UserError(
                    f'{other} and {path} would share one annotated image, {target}: rename one of '
                    f'them'
                )

    def run(self, predictor: Predictor, indices: Sequence[int]) -> None:
        """Predict the images of these indices, with a progress bar on the rank of the first."""
        for folder in self.folders:
            with self._writing(folder.name):
                result_folders.claim(folder)
        with console.progress('images', enabled=0 in indices) as bar:
            bar.add_task('', total=len(indices))
            task = bar.tasks[0]

            def watch(index: int, fraction: float) -> None:  # of an image in tiles
                bar.update(task.id, completed=math.floor(task.completed) + min(fraction, 0.99))

            images = self._read(indices, bar, predictor)
            # reading, the network, and drawing with writing at the same time
            predictions = ahead(predictor.stream(ahead(images), watch))
            with contextlib.closing(predictions):
                for index, prediction in predictions:
                    self.write(index, prediction)
                    bar.update(task.id, completed=math.floor(task.completed) + 1)
                    if predictor.tiling and max(prediction.image.shape) <= predictor.tiling.size:
                        self.whole += 1

    def _read(
        self, indices: Sequence[int], bar: Progress, predictor: Predictor
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Index and pixels of each image; skips those that cannot be read, with a message."""
        from effvim.images import read_image

        for index in indices:
            try:
                path = self.paths[index]
                image = read_image(path, max_megapixels=predictor.max_megapixels)
                predictor.check_size(image, str(path))
            except UserError as error:
                self.unreadable.append(str(error))
                bar.console.print(
                    f'skipped: {error}', markup=False, highlight=False, soft_wrap=True
                )
                bar.advance(bar.task_ids[0])
            else:
                yield index, image

    def write(self, index: int, prediction: Prediction) -> None:
        """Write the files of one image.

        Raises:
            UserError: a file cannot be written.
        """
        if self.labels is not None:
            prediction = prediction.only(np.isin(prediction.labels, self.labels))
        name = self._name(index)
        drawn = prediction.shrunk(LARGEST).draw(self.score_thr)
        drawing = self._drawing(index)
        self._write(drawing, encode_drawing(np.asarray(drawn), drawing))
        kept = prediction.above(self.score_thr)
        for kind in self.formats:
            with self._writing(kind):
                save_as(kind, kept, self.out, self.paths[index], name, self.stems[index])
        if self.spool is None:
            return
        height, width = prediction.image.shape[:2]
        image = {'id': self.ids[index], 'file_name': name, 'width': width, 'height': height}
        results: dict[str, list[dict[str, Any]]] = {}
        if prediction.label_map is None:
            results['bbox'], results['segm'] = coco_results(kept, image['id'], self.category_ids)
        else:
            image['label_map'] = f'labels/{name}.png'
            buffer = io.BytesIO()
            self._label_image(prediction.label_map).save(buffer, 'PNG')
            self._write(image['label_map'], buffer.getvalue())
            results['segments'] = []
        with self._writing('results'):
            self.spool.add('images', index, [image])
            for kind, found in results.items():
                self.spool.add(kind, index, [{**one, 'file_name': name} for one in found])

    def _name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()

    def _drawing(self, index: int) -> str:
        return f'images/{name_of_drawing(self._name(index))}'

    def outcome(self) -> Outcome:
        """What this process has done, once all of it is on disk."""
        if self.spool:
            with self._writing('results'):
                self.spool.close()
        return Outcome(self.spool.places if self.spool else None, self.unreadable, self.whole)

    def remove_spool(self) -> None:
        """Delete what is not needed any more."""
        if self.spool:
            remove(self.spool.places)

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Write the JSON files and report how many images were predicted.

        Raises:
            UserError: a file cannot be written.
        """
        every = [outcome.places for outcome in outcomes if outcome.places]
        if every:
            self._write_json_files(every)
            for places in every:
                remove(places)
        unreadable = sorted(why for outcome in outcomes for why in outcome.unreadable)
        done = len(self.paths) - len(unreadable)
        console.say(f'{done} of {len(self.paths)} images done; results: {self.out}')
        if whole := sum(outcome.whole for outcome in outcomes):
            console.note(f'{whole} images are no larger than a tile')
        if unreadable:
            console.error(
                f'{len(unreadable)} could not be read:', *(f'  {why}' for why in unreadable)
            )

    def _write_json_files(self, every: Sequence[Places]) -> None:
        segments = self.segments
        ids = range(len(self.classes)) if segments else self.category_ids
        categories = [{'id': id_, 'name': name} for id_, name in zip(ids, self.classes)]
        end = f'], "categories": {jsonlib.dumps(categories)}}}\n'
        with self._writing('images.json'):
            write_sorted(
                self.out / 'images.json', every, 'images', self._name, ('{"images": [', end)
            )
        for kind in ('bbox', 'segm'):
            if any(places.numbers.get(kind) for places in every) or (
                kind == 'bbox' and not segments
            ):
                name = f'detections.{kind}.json'
                with self._writing(name):
                    write_sorted(self.out / name, every, kind, self.ids.__getitem__)

    def _label_image(self, label_map: np.ndarray) -> Image.Image:
        """A label map as an image: values are the labels, colours are there to look at."""
        from PIL import Image

        from effvim.visualization.rendering import class_palette

        if len(self.classes) > 256:
            return Image.fromarray(label_map.astype('uint16'))
        image = Image.fromarray(label_map.astype('uint8'))
        image.putpalette(class_palette(len(self.classes)).tobytes())
        return image

    def _write(self, name: str, content: bytes) -> None:
        with self._writing(name):
            write_atomic(self.out / name, content)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f'{self.out / name} cannot be written: {error.strerror}; choose another '
                f'directory with --out'
            ) from error
