"""Frames of a video file, upright and with their times."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError
from effvim.video import pyav

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 2**28  # of a frame, as of an image

OPEN_SECONDS, READ_SECONDS = 10, 10  # how long a server may stay silent

NO_DECODER = 'this PyAV has no decoder for its video codec: convert it'

SLACK = 0.5  # seconds by which the duration that a file states may exceed its content


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: in the video, from 0.
        time: seconds since the video's start.
        image: H W 3, uint8, RGB, upright as the rotation in the file says.
    """

    number: int
    time: float
    image: np.ndarray


class UnreadableVideo(UserError):
    """A video cannot be read, or not as asked for; others may be."""


def video_stream(container: Any, name: str) -> Any:
    """The first stream of PyAV's that is a video.

    Args:
        container: PyAV's, of a file or a live stream.
        name: what messages call it.

    Raises:
        UnreadableVideo: there is none, there is no decoder for it, or its frames are too large.
    """
    stream = next(iter(container.streams.video), None)
    if stream is None:
        raise UnreadableVideo(f'{name} has no video')
    if stream.codec_context is None:
        raise UnreadableVideo(f'{name}: {NO_DECODER}')
    if stream.width * stream.height > MAX_PIXELS:
        raise UnreadableVideo(
            f'{name}: frames of {stream.width} × {stream.height} pixels are too large: at most '
            f'{MAX_PIXELS} pixels are accepted'
        )
    return stream


class VideoFile:
    """A video file, or one of known length behind an address; a context manager.

    Args:
        source: path or address.
        name: what messages call it.
        formats: FFmpeg's names of the file formats that are allowed (default: all).

    Attributes:
        source: path or address.
        name: what messages call it.
        start_time: when the video starts in its own timestamps, in seconds.
        seconds: its duration; None if unknown, as of live streams.
        rate: average number of frames per second.
        pixel_aspect: width of a pixel divided by its height, as stored.
        problems: what was not as it should be, once the frames have been read.

    Raises:
        UnreadableVideo: it cannot be read, has no video, or its codec is unknown.
    """

    def __init__(self, source: str, name: str, formats: Sequence[str] = ()) -> None:
        self.source, self.name, self.formats = source, name, formats
        self.problems: list[str] = []
        self.av = pyav.load()
        self._open()
        self.start_time = (self.container.start_time or 0) / 1e6
        duration = self.container.duration
        self.seconds = duration / 1e6 if duration and duration > 0 else None
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.rate = float(rate) if rate else 25.0
        self.pixel_aspect = self.stream.sample_aspect_ratio or Fraction(1)

    def _open(self) -> None:
        self.container = open_container(self.source, self.name, self.formats)
        try:
            self.stream = video_stream(self.container, self.name)
            self.stream.thread_type = 'AUTO'
        except UnreadableVideo:
            self.container.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Do nothing: whoever reads the frames is never kept waiting for long."""

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def expected(self, start: float, end: float | None, stride: int) -> int | None:
        """About how many frames `frames` gives; None if that is unknown."""
        if self.seconds is None:
            return None
        seconds = min(self.seconds, end or self.seconds) - start
        return max(1, round(seconds * self.rate / stride))

    def frames(
        self, start: float = 0, end: float | None = None, stride: int = 1
    ) -> Generator[Frame, None, None]:
        """Decode the frames from `start` to `end`, in seconds, every `stride`-th of them.

        With a `start`, frames are numbered by their time and the average rate. What cannot be
        decoded is skipped and added to `problems`.

        Raises:
            UnreadableVideo: there is no frame in this range.
        """
        if start and self.seconds is not None and start >= self.seconds:
            raise UnreadableVideo(
                f'{self.name} ends at {self.seconds:.2f} s: choose an earlier --start'
            )
        to_end = end is None or (self.seconds is not None and self.seconds <= end)
        decoded = self._decoded(to_end)
        if start:
            decoded = self._decoded_from(start, to_end)
        number = first = None
        count, last = 0, float('-inf')
        for frame in decoded:
            time = self._time(frame, number, last)
            if number is not None:
                number += 1
            else:  # at a key frame before `start`
                number = round(time * self.rate) if start else 0
                if round(frame.rotation / 90) % 2:
                    self.pixel_aspect = 1 / self.pixel_aspect
            if end is not None and time >= end:
                break
            last = time
            if time < start - 1e-6:
                continue
            first = number if first is None else first
            if (number - first) % stride:
                continue
            count += 1
            yield Frame(number, time, upright(frame))
        if not count:
            raise UnreadableVideo(
                f'{self.name}: no frame could be decoded'
                + (f' from {start:g} s on' if start else '')
                + (f' ({self.problems[0]})' if self.problems else '')
            )

    def _time(self, frame: Any, before: int | None, last: float) -> float:
        """Seconds since the start, increasing even where timestamps are absent or go back."""
        if frame.pts is None:
            return 0 if before is None else last + 1 / self.rate
        time = float(frame.pts * frame.time_base) - self.start_time
        return time if time > last else last + 1 / self.rate

    def _decoded_from(self, start: float, to_end: bool) -> Iterator[Any]:
        """Decoded frames, the first of them before `start`, in seconds, or there."""
        self.container.seek(int((start + self.start_time) * 1e6))
        decoded = self._decoded(to_end)
        first = next(decoded, None)
        # formats without an index may have put us behind the key frame: then read all
        if first is None or self._time(first, None, float('-inf')) > start + 1 / self.rate:
            self.problems.clear()
            self.close()
            self._open()
            decoded = self._decoded(to_end)
            first = next(decoded, None)
        if first is not None:
            yield first
            yield from decoded

    def _decoded(self, to_end: bool) -> Iterator[Any]:
        """Decoded frames from where the file is; `to_end`: all will be asked for."""
        damaged = packets = 0
        end = 0.0
        try:
            # all streams, since the last packet of any shows where the file ends
            for packet in self.container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not self.stream:
                    continue
                packets += packet.size > 0
                try:
                    yield from packet.decode()
                except self.av.error.DecoderNotFoundError as error:
                    raise UnreadableVideo(f'{self.name}: {NO_DECODER}') from error
                except self.av.FFmpegError:
                    damaged += 1
        except self.av.FFmpegError as error:
            self.problems.append(f'cannot be read further: {pyav.reason(error)}')
        if damaged:
            self.problems.append(f'{damaged} of {packets} packets could not be decoded')
        # where the index at the front is whole, but the frames at the end are absent
        stated = max(self.seconds or 0, self.stream.frames / self.rate)
        if to_end and not self.problems and end - self.start_time < stated - SLACK:
            self.problems.append(
                f'is truncated: it ends after {end - self.start_time:.2f} of {stated:.2f} s'
            )


def open_container(source: str, name: str, formats: Sequence[str] = (), **settings: Any) -> Any:
    """Open a file or an address for reading, by PyAV.

    Args:
        source: path or address.
        name: what messages call it.
        formats: of a file, see `VideoFile`.
        settings: of `av.open`.

    Raises:
        UnreadableVideo: it cannot be opened.
    """
    av = pyav.load()
    if '://' not in source:  # a file never makes FFmpeg contact a server or read another file
        settings.setdefault('options', {'protocol_whitelist': 'file'})
        if formats:
            settings['options']['format_whitelist'] = ','.join(formats)
    try:
        return av.open(source, timeout=(OPEN_SECONDS, READ_SECONDS), **settings)
    except av.error.ArgumentError as error:
        why = 'its format is not accepted, convert it to MP4' if formats else pyav.reason(error)
        raise UnreadableVideo(f'{name} cannot be read as a video: {why}') from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableVideo(f'{name} cannot be read as a video: {pyav.reason(error)}') from error


def upright(frame: Any) -> np.ndarray:
    """The pixels of a decoded frame, H W 3, uint8, RGB, rotated as its display matrix says."""
    import numpy as np

    image = frame.to_ndarray(format='rgb24')
    quarters = round(frame.rotation / 90)  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters % 4 else image
