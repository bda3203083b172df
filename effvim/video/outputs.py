"""The files that are written for a video."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.files import atomic_file
from effvim.inference import result_folders
from effvim.inference.coco_results import category_ids
from effvim.inference.json_results import objects_as_json, regions_as_json
from effvim.inference.prediction import labels_of
from effvim.video import pyav
from effvim.video.audio import AudioTrack
from effvim.video.counting import Counters
from effvim.video.reading import Frame, UnreadableVideo, VideoFile
from effvim.video.tracking import Tracker
from effvim.video.writing import CONTAINER, VideoWriter

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction
    from effvim.inference.predictor import Predictor
    from effvim.video.predicting import Video
    from effvim.video.settings import VideoSettings


def annotated_path(out: Path, name: str) -> Path:
    """The annotated video of a name in an output directory."""
    return out / f'videos/{name}.{CONTAINER}'


def folders(out: Path, settings: VideoSettings) -> list[Path]:
    """The directories that the results go into."""
    return [out / kind for kind in ('videos', *['mot'] * settings.mot)]


class VideoOutputs:
    """Tracks, counts, draws and writes the predictions of a video; a context manager.

    After an exception in its block, before `finish` is done, none of its files is left.

    Args:
        out: the output directory.
        name: of the files.
        settings: see there.
        video: where the frames come from.
        predictor: the network.
        first: the first frame.

    Raises:
        UserError: a setting does not fit the network or the video, or a file cannot be written.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        settings: VideoSettings,
        video: Video,
        predictor: Predictor,
        first: Frame,
    ) -> None:
        self.settings, self.video, self.out = settings, video, out
        self.av = pyav.load()
        self.labels = labels_of(settings.classes, predictor.classes) if settings.classes else None
        self.category_ids = category_ids(predictor.classes) if settings.mot else []
        rate = video.rate / settings.stride
        self.tracker = None
        if settings.track:
            self.tracker = Tracker(settings.track, settings.score_thr, rate)
        self.counters = None
        if settings.zones or settings.lines:
            height, width = first.image.shape[:2]
            self.counters = Counters(settings.zones, settings.lines, (width, height), video.name)
        self.audio = AudioTrack(video, settings.start) if isinstance(video, VideoFile) else None
        self.last = first.time
        with contextlib.ExitStack() as self.files, self._writing():
            for folder in folders(out, settings):
                result_folders.claim(folder)
            target = self._open(annotated_path(out, name))
            self.lines = self._open(out / f'videos/{name}.jsonl') if settings.json else None
            self.tracks = self._open(out / f'mot/{name}.txt') if settings.mot else None
            self.writer = VideoWriter(
                target.name,
                settings.codec,
                rate=rate,
                pixel_aspect=video.pixel_aspect,
                audio=self.audio,
            )
            self.files = self.files.pop_all()

    def _open(self, path: Path) -> BinaryIO:
        return self.files.enter_context(atomic_file(path))

    def __enter__(self) -> VideoOutputs:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._writing():
            self.files.__exit__(*error)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except UnreadableVideo as error:
            raise UnreadableVideo(f'{self.video.name}: {error}') from error
        except (OSError, self.av.FFmpegError) as error:
            raise UserError(
                f'{self.out} cannot be written: {pyav.reason(error)}; choose another directory '
                f'with --out'
            ) from error

    def write(self, frame: Frame, prediction: Prediction) -> np.ndarray:
        """Write a frame and return it annotated, H W 3, uint8, RGB.

        Raises:
            UserError: a file cannot be written.
        """
        prediction = self._kept(prediction, frame.time)
        image = np.array(prediction.draw(0, legend=False))
        if self.counters:
            self.counters.update(prediction)
            image = self.counters.draw(image)
        with self._writing():
            self.writer.write(image, frame.time - self.settings.start)
            if self.lines:
                self.lines.write((json.dumps(self._record(frame, prediction)) + '\n').encode())
            if self.tracks:
                self.tracks.write(self._mot_lines(frame, prediction).encode())
        self.last = frame.time
        return image

    def _kept(self, prediction: Prediction, time: float) -> Prediction:
        """The objects that are shown, with identities if they are tracked."""
        if prediction.label_map is not None:
            return prediction
        if self.labels is not None:
            prediction = prediction.only(np.isin(prediction.labels, self.labels))
        if self.tracker is None:
            return prediction.above(self.settings.score_thr)
        return self.tracker.update(prediction, time)  # which needs the low scores

    def _record(self, frame: Frame, prediction: Prediction) -> dict[str, Any]:
        segments = prediction.label_map is not None
        return {
            'frame': frame.number,
            'time': round(frame.time, 6),
            **(
                {'regions': regions_as_json(prediction)}
                if segments
                else {'objects': objects_as_json(prediction)}
            ),
            **(self.counters.as_json() if self.counters else {}),
        }

    def _mot_lines(self, frame: Frame, prediction: Prediction) -> str:
        """Frame from 1, identity, x, y, width, height, score, class, visibility (-1: unknown)."""
        assert prediction.track_ids is not None
        return ''.join(
            f'{frame.number + 1},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},'
            f'{score:.4f},{self.category_ids[label]},-1\n'
            for track, (x1, y1, x2, y2), score, label in zip(
                prediction.track_ids, prediction.boxes, prediction.scores, prediction.labels
            )
            if track >= 0
        )

    def finish(self, to_end: bool) -> None:
        """Complete the files; `to_end`: with all of the audio, else with that of the frames.

        Raises:
            UserError: a file cannot be written.
        """
        with self._writing():
            self.writer.close(None if to_end else self.last - self.settings.start)
            self.files.close()  # from here on they are kept
        if self.audio and self.audio.problem:
            console.warn(f'{self.video.name}: the audio is not kept: {self.audio.problem}')

    def counts(self) -> str:
        """What zones and lines have counted, in words."""
        return self.counters.summary() if self.counters else ''
