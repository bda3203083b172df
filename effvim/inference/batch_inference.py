"""Predict many image files: annotated images for people, results for programs."""

from __future__ import annotations

import dataclasses
import io
import json as jsonlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError
from effvim import console
from effvim.inference.annotation_ids import ids_of
from effvim.inference.coco_results import category_ids, coco_results

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from rich.progress import Progress

    from effvim.inference.prediction import Prediction
    from effvim.inference.predictor import Predictor


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    score_thr: float = 0.3,
    json: bool = False,
    annotations: Path | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[str]:
    """Predict image files, and write the results in the directory tree of the images.

    Files in `out`: `images/NAME.png`, annotated; with `json` also `images.json` and, of detectors,
    `detections.bbox.json` and `detections.segm.json`, of segmentors `labels/NAME.png`.

    Args:
        predictor: the network.
        paths: the images.
        out: the output directory.
        score_thr: objects that score lower are dropped.
        json: also write results for programs: COCO's results or label maps.
        annotations: COCO's annotation file whose ids the results have (default: that of the
            images' directory, see `annotation_ids`; without one the numbers in the files' names,
            or 1, 2, 3 …).
        rank: of this process; each predicts every `world_size`-th image.
        world_size: number of processes. All call this function with the same images.

    Returns:
        For each image that could not be read, on every rank: why not, with its path.

    Raises:
        UserError: a file cannot be written, or `annotations` does not fit.
    """
    job = InferenceJob(
        paths, out, predictor.classes, score_thr=score_thr, json=json, annotations=annotations
    )
    job.run(predictor, range(rank, len(paths), world_size))
    if world_size > 1:
        from mmengine.dist import all_gather_object

        job.outcome = sum(all_gather_object(job.outcome), Outcome())
    if rank == 0:
        job.finish()
    return job.outcome.unreadable


@dataclasses.dataclass
class Outcome:
    """What was done with some of the images.

    Attributes:
        images: COCO's `images`, of those predicted.
        boxes: COCO's results of boxes.
        masks: COCO's results of masks.
        unreadable: why images could not be read, with their paths.
    """

    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    boxes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    masks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.images + other.images,
            self.boxes + other.boxes,
            self.masks + other.masks,
            sorted(self.unreadable + other.unreadable),
        )


class InferenceJob:
    """Predicts images and writes the results; arguments as of `predict_files`."""

    def __init__(
        self,
        paths: Sequence[Path],
        out: Path,
        classes: Sequence[str],
        *,
        score_thr: float = 0.3,
        json: bool = False,
        annotations: Path | None = None,
    ) -> None:
        self.paths, self.out, self.classes = paths, out, classes
        self.score_thr, self.json = score_thr, json
        self.root = Path(os.path.commonpath([path.parent for path in paths]))
        known = ids_of(paths, self.root, classes, annotations) if json else None
        if known:
            self.ids, self.category_ids = known
        else:
            # as in COCO: the number that is the file's name
            numbers = [int(p.stem) if p.stem.isdecimal() else -1 for p in paths]
            unique = -1 not in numbers and len(set(numbers)) == len(paths)
            self.ids = numbers if unique else list(range(1, len(paths) + 1))
            self.category_ids = category_ids(classes)
        self.outcome = Outcome()

    def run(self, predictor: Predictor, indices: Sequence[int]) -> None:
        """Predict the images of these indices, with a progress bar on the rank of the first."""
        with console.progress('images', enabled=0 in indices) as bar:
            bar.add_task('', total=len(indices))
            for index, prediction in predictor.stream(self._read(indices, bar)):
                self.write(index, prediction)
                bar.advance(bar.task_ids[0])

    def _read(self, indices: Sequence[int], bar: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """Index and pixels of each image; skips those that cannot be read, with a message."""
        from effvim.images import read_image

        for index in indices:
            try:
                yield index, read_image(self.paths[index])
            except UserError as error:
                self.outcome.unreadable.append(str(error))
                bar.console.print(f'skipped: {error}', markup=False, highlight=False)
                bar.advance(bar.task_ids[0])

    def write(self, index: int, prediction: Prediction) -> None:
        """Write the files of one image.

        Raises:
            UserError: a file cannot be written.
        """
        name = self.paths[index].relative_to(self.root).as_posix()
        self._write_image(f'images/{name}.png', prediction.draw(self.score_thr))
        if not self.json:
            return
        height, width = prediction.image.shape[:2]
        image = {'id': self.ids[index], 'file_name': name, 'width': width, 'height': height}
        if prediction.label_map is None:
            boxes, masks = coco_results(
                prediction.above(self.score_thr), image['id'], self.category_ids
            )
            self.outcome.boxes += [{**box, 'file_name': name} for box in boxes]
            self.outcome.masks += [{**mask, 'file_name': name} for mask in masks]
        else:
            image['label_map'] = f'labels/{name}.png'
            self._write_image(image['label_map'], self._label_image(prediction.label_map))
        self.outcome.images.append(image)

    def finish(self) -> None:
        """Write the JSON files and report how many images were predicted.

        Raises:
            UserError: a file cannot be written.
        """
        if self.json:
            self._write_json_files()
        unreadable = self.outcome.unreadable
        done = len(self.paths) - len(unreadable)
        console.say(f'{done} of {len(self.paths)} images done; results: {self.out}')
        if unreadable:
            console.error(
                f'{len(unreadable)} could not be read:', *(f'  {why}' for why in sorted(unreadable))
            )

    def _write_json_files(self) -> None:
        images = sorted(self.outcome.images, key=lambda image: image['file_name'])
        segments = any('label_map' in image for image in images)
        ids = range(len(self.classes)) if segments else self.category_ids
        categories = [{'id': id_, 'name': name} for id_, name in zip(ids, self.classes)]
        self._write_json('images.json', {'images': images, 'categories': categories})
        for name, results in (('bbox', self.outcome.boxes), ('segm', self.outcome.masks)):
            if results or (name == 'bbox' and not segments):
                results = sorted(results, key=lambda result: result['image_id'])
                self._write_json(f'detections.{name}.json', results)

    def _label_image(self, label_map: np.ndarray) -> Image.Image:
        """A label map as an image: values are the labels, colours are there to look at."""
        from PIL import Image

        from effvim.visualization.rendering import class_palette

        if len(self.classes) > 256:
            return Image.fromarray(label_map.astype('uint16'))
        image = Image.fromarray(label_map.astype('uint8'))
        image.putpalette(class_palette(len(self.classes)).tobytes())
        return image

    def _write_image(self, name: str, image: Image.Image) -> None:
        buffer = io.BytesIO()
        image.save(buffer, 'PNG')
        self._write(name, buffer.getvalue())

    def _write_json(self, name: str, content: Any) -> None:
        self._write(name, (jsonlib.dumps(content, allow_nan=False) + '\n').encode())

    def _write(self, name: str, content: bytes) -> None:
        from effvim.files import write_atomic

        try:
            write_atomic(self.out / name, content)
        except OSError as error:
            raise UserError(
                f'{self.out / name} cannot be written: {error.strerror}; choose another '
                f'directory with --out'
            ) from error
