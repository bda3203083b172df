"""The web page's tab for videos; needs gradio."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from backbone.errors import UserError
from effvim.inference.sources import VIDEO_SUFFIXES
from effvim.video.settings import VideoSettings, check_installed
from effvim.web_page.inputs import (
    MAX_MEGAPIXELS,
    checkpoint_input,
    refusal,
    threshold_input,
    tiles_input,
)

if TYPE_CHECKING:
    from effvim.inference.predictor import Predictor

# FFmpeg's names of the file formats that are read. Others may make it open further files, e.g. a
# list of files that names itself.
FORMATS = ('mov', 'matroska', 'avi', 'mpegts', 'mpeg', 'flv', 'asf', 'ogg')

MAX_RATE = 120  # frames a second: a small file may claim millions of frames in a second


class VideoJobs:
    """The videos that wait or are being predicted, one for each visitor at most, to be stopped.

    Args:
        max_seconds: how much of a video is predicted.
    """

    def __init__(self, max_seconds: float) -> None:
        self.max_seconds = max_seconds
        self.stops: dict[str | None, threading.Event] = {}
        self.busy: list[threading.Event] = []
        self.changed = threading.Condition()
        self.closed = False

    @property
    def max_frames(self) -> int:
        """How many frames of a video are predicted."""
        return max(1, round(self.max_seconds * MAX_RATE))

    def enter(self, request: gr.Request) -> None:
        """Note that a visitor's video waits, so that it can be stopped before its turn."""
        with self.changed:
            stop = self.stops.get(request.session_hash)
            if stop is None or (stop.is_set() and stop not in self.busy):
                self.stops[request.session_hash] = threading.Event()

    @contextlib.contextmanager
    def running(self, visitor: str | None) -> Iterator[threading.Event]:
        """Yields the event that says that the visitor's video is to be stopped."""
        with self.changed:
            stop = self.stops.setdefault(visitor, threading.Event())
            self.busy.append(stop)
            if self.closed:
                stop.set()
        try:
            yield stop
        finally:
            with self.changed:
                self.busy.remove(stop)
                self.stops.pop(visitor, None)
                self.changed.notify_all()

    def leave(self, request: gr.Request) -> None:
        """Stop the video of a visitor, if one waits or is being predicted."""
        with self.changed:
            if request.session_hash in self.stops:
                self.stops[request.session_hash].set()

    def close(self) -> None:
        """Stop all videos and wait until their files are complete."""
        with self.changed:
            self.closed = True
            for stop in self.stops.values():
                stop.set()
            self.changed.wait_for(lambda: not self.busy)


def add(predictors: Mapping[str, Predictor], segments: bool, jobs: VideoJobs) -> None:
    """Add the content of the tab; the arguments are those of `web_page.build`."""
    try:
        check_installed()
    except UserError as error:
        gr.Markdown(html.escape(str(error), quote=False))
        return

    def predict(
        path: str | None,
        checkpoint: str,
        tile: int,
        track: bool,
        score_thr: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        if path is None:
            return _nothing('Choose a video first.')
        predictor = predictors[checkpoint].in_tiles(tile or None)
        settings = VideoSettings(
            score_thr=score_thr,
            json=True,
            end=jobs.max_seconds,
            track='bytetrack' if track else None,
        )
        with jobs.running(request.session_hash) as stop:
            try:
                return _predict(predictor, path, settings, jobs.max_frames, stop, progress)
            except UserError as error:
                return _nothing(refusal(error, path))

    can_track = not segments and importlib.util.find_spec('trackers') is not None
    gr.Markdown(
        f'Drop a video and press Predict. Of longer ones the first {jobs.max_seconds:g} seconds '
        f'are predicted, at most {jobs.max_frames:,} frames.'
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            upload = gr.File(label='Video', file_types=list(VIDEO_SUFFIXES), height=140)
            choice = checkpoint_input(predictors)
            tile = tiles_input()
            threshold = threshold_input(segments)
            track = gr.Checkbox(label='Track objects', visible=can_track)
            with gr.Row():
                start = gr.Button('Predict', variant='primary', size='md', min_width=130)
                stop = gr.Button('Stop', size='md', min_width=130)
        with gr.Column(scale=5, min_width=320):
            result = gr.Video(
                label='Result', interactive=False, elem_id='video', buttons=[], height='60vh'
            )
            with gr.Row():
                downloads = [
                    gr.DownloadButton(f'Download {what}', size='sm', interactive=False)
                    for what in ('video (MP4)', 'results (JSON lines)')
                ]
            summary = gr.Markdown()
    start.click(jobs.enter, queue=False, api_name='enter').then(
        predict,
        [upload, choice, tile, track, threshold],
        [result, summary, *downloads],
        show_progress_on=result,
        concurrency_limit=1,
        api_name='predict_video',
    )
    stop.click(jobs.leave, queue=False, api_name='stop')


def _nothing(why: str) -> list[Any]:
    """The outputs of no result."""
    return [None, why, *(gr.update(value=None, interactive=False) for _ in range(2))]


def _predict(
    predictor: Predictor,
    path: str,
    settings: VideoSettings,
    max_frames: int,
    stop: threading.Event,
    progress: gr.Progress,
) -> list[Any]:
    """The video's file, the text about it, and both downloads.

    Raises:
        UserError: the video cannot be predicted.
    """
    from effvim.video.predicting import predict_video

    if stop.is_set():
        return _nothing('Stopped.')
    seconds, total = check_video(path, settings.end)
    total = total and min(total, max_frames)
    folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
    name = f'{Path(path).stem}_prediction'
    frames = height = width = 0
    started = time.perf_counter()

    def watch(image: np.ndarray) -> None:
        nonlocal frames, height, width
        frames += 1
        height, width = image.shape[:2]
        rate = frames / (time.perf_counter() - started)
        progress((frames, total), desc=f'{rate:.1f} frames per second', unit='frames')
        if stop.is_set() or frames == max_frames:
            raise KeyboardInterrupt

    notes = []
    try:
        result = predict_video(
            predictor, path, folder, settings, name=name, progress=False, show=watch
        )
        notes += result.problems
        if settings.end is not None and (seconds or 0) > settings.end:
            notes.append(f'the first {settings.end:g} of {seconds:.1f} seconds')
    except KeyboardInterrupt:
        notes.append('stopped' if stop.is_set() else f'no more than {max_frames} are predicted')
    rate = frames / (time.perf_counter() - started)
    text = (
        f'**{frames} frame{"s" if frames > 1 else ""}'
        f'{"".join(f"; {html.escape(note)}" for note in notes)}**  \n'
        f'{width} × {height} pixels · {rate:.1f} frames per second'
    )
    files = [str(folder / f'videos/{name}.{suffix}') for suffix in ('mp4', 'jsonl')]
    return [files[0], text, *(gr.update(value=file, interactive=True) for file in files)]


def check_video(path: str, end: float | None) -> tuple[float | None, int | None]:
    """Check that an uploaded file may be decoded.

    Args:
        path: the file.
        end: seconds after which the rest is skipped.

    Returns:
        Its duration in seconds, and about how many frames will be predicted; None if unknown.

    Raises:
        UserError: it cannot be read, is of another format, or its frames are too large.
    """
    from effvim.video.reading import VideoFile

    with VideoFile(path, Path(path).name, FORMATS) as video:
        width, height = video.stream.width, video.stream.height
        if width * height > 1e6 * MAX_MEGAPIXELS:
            raise UserError(
                f'{video.name}: frames of {width} × {height} pixels are too large: at most '
                f'{MAX_MEGAPIXELS:g} megapixels are accepted, make them smaller'
            )
        return video.seconds, video.expected(0, end, 1)
