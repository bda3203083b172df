"""Predict a video, a camera or a stream: an annotated video for people, lines for programs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.inference import result_folders
from effvim.inference.overlap import ahead
from effvim.inference.sources import file_name, is_live, public_name
from effvim.video.camera_stream import LiveStream, open_live
from effvim.video.interrupts import deferred_interrupt
from effvim.video.outputs import VideoOutputs, annotated_path, folders
from effvim.video.reading import Frame, UnreadableVideo, VideoFile
from effvim.video.settings import VideoSettings

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction
    from effvim.inference.predictor import Predictor

Video = VideoFile | LiveStream

PLAYLISTS = ('hls', 'dash')  # FFmpeg's names of formats whose size is that of the list

NO_FRAME = 'no frame has arrived'


@dataclasses.dataclass
class VideoResult:
    """What became of a video.

    Attributes:
        name: of the video.
        frames: number of frames that were predicted.
        rate: frames per second.
        counts: of zones and lines, in words.
        problems: what could not be read.
    """

    name: str
    frames: int
    rate: float
    counts: str
    problems: list[str]


def predict_video(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    settings: VideoSettings | None = None,
    *,
    name: str | None = None,
    progress: bool = True,
    show: Callable[[np.ndarray], None] | None = None,
) -> VideoResult:
    """Predict a video, a camera or a stream.

    Files in `out`: `videos/NAME.mp4`, annotated, with the audio; with `json` `videos/NAME.jsonl`,
    a line for each frame; with `mot` `mot/NAME.txt`. After Ctrl-C they hold what was done so far;
    another one, while they are completed, discards them. Decoding, the network, and drawing with
    encoding run at the same time.

    Args:
        predictor: the network.
        source: path, number of a camera, or address.
        out: the output directory.
        settings: see there.
        name: of the output files (default: that of the source without its suffix).
        progress: show it on stderr.
        show: called with each annotated frame, H W 3, uint8, RGB; a KeyboardInterrupt that it
            raises has the effect of Ctrl-C.

    Returns:
        What became of it. Where a file is damaged or a connection lost, what came before is
        written, and the result names the problem.

    Raises:
        UserError: nothing can be read, a setting does not fit, or a file cannot be written or would
            replace the video.
        KeyboardInterrupt: after Ctrl-C, once the files are complete.
    """
    settings = settings or VideoSettings()
    settings.check(predictor.network.segments)
    source = str(source)
    name = name or (file_name(source) if is_live(source) else Path(source).stem)
    refuse_to_replace(source, Path(out), name, settings)
    interrupted = False
    with open_video(source, settings.reconnect) as video:
        predictions = _predictions(predictor, video, settings)
        with contextlib.closing(ahead(predictions)) as ready:
            try:
                first = next(ready, None)
                if first is None:
                    raise UnreadableVideo(f'{video.name}: {"; ".join(video.problems) or NO_FRAME}')
                outputs = VideoOutputs(Path(out), name, settings, video, predictor, first[0])
                total = video.expected(settings.start, settings.end, settings.stride)
                with outputs, console.FrameProgress(video.name, total, enabled=progress) as bar:
                    try:
                        for frame, prediction in itertools.chain([first], ready):
                            with deferred_interrupt():  # every file has the same frames
                                image = outputs.write(frame, prediction)
                            if show:
                                show(image)
                            bar.advance()
                    except KeyboardInterrupt:
                        interrupted = True
                    with deferred_interrupt():
                        outputs.finish(to_end=settings.end is None and not interrupted)
            finally:
                video.stop()
    if interrupted:
        raise KeyboardInterrupt
    return VideoResult(video.name, bar.done, bar.rate, outputs.counts(), video.problems)


def refuse_to_replace(source: str | Path, out: Path, name: str, settings: VideoSettings) -> None:
    """Check that the results of a name would replace neither a source nor files of the user's.

    Raises:
        UserError: they would.
    """
    for folder in folders(out, settings):
        result_folders.check(folder)
    target = annotated_path(out, name)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UserError(
            f'{source} would be replaced by an annotated video: choose another directory with --out'
        )


def open_video(source: str, reconnect: int = 5) -> Video:
    """Open a video file, a camera or a stream; an address of known length is read like a file.

    Raises:
        UserError: it cannot be opened, or an address leads to an image.
    """
    if not is_live(source):
        return VideoFile(source, source)
    container = open_live(source)
    name = container.format.name
    finite = container.size > 0 and name not in PLAYLISTS  # a live server states no size
    if not container.duration and not finite:
        return LiveStream(source, container, retries=reconnect)
    container.close()
    if finite and (name == 'image2' or name.endswith('_pipe')):
        raise UnreadableVideo(
            f'{public_name(source)} is an image, not a video: download it and pass the file'
        )
    return VideoFile(source, public_name(source))


def _predictions(
    predictor: Predictor, video: Video, settings: VideoSettings
) -> Iterator[tuple[Frame, Prediction]]:
    """Frames and their predictions, in the order of the video."""
    frames = video.frames(settings.start, settings.end, settings.stride)
    if isinstance(video, VideoFile):  # a live stream has a thread of its own, and no queue
        frames = ahead(frames)
    waiting: dict[int, tuple[Frame, Prediction]] = {}
    position = 0
    with contextlib.closing(frames):
        keyed = (((i, frame), frame.image) for i, frame in enumerate(frames))
        for (i, frame), prediction in predictor.stream(keyed):
            waiting[i] = frame, prediction
            while position in waiting:
                yield waiting.pop(position)
                position += 1
