"""Frames of a camera or a live stream: the newest one, whatever was missed meanwhile."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from effvim import console
from effvim.inference.sources import is_address, public_name
from effvim.video import pyav
from effvim.video.reading import (
    Frame,
    UnreadableVideo,
    open_container,
    upright,
    video_stream,
)

LONGEST_WAIT = 30  # seconds between two attempts to reconnect


class CameraInput(NamedTuple):
    """How FFmpeg opens the cameras of a system: the format, and the device by its number."""

    format: str
    device: str


CAMERAS = {
    'linux': CameraInput('video4linux2', '/dev/video{}'),
    'darwin': CameraInput('avfoundation', '{}'),
}


class Arrived(NamedTuple):
    """A decoded frame of PyAV, its number, and when it arrived, in seconds after the first."""

    number: int
    time: float
    decoded: Any


class LiveStream:
    """A camera or a live stream; a context manager.

    A thread reads all frames and keeps the newest. Where the connection breaks, it is opened again
    after 1, 2, 4 … seconds (`wait` times these), until that has failed `retries` times in a row.

    Args:
        source: number of a camera, or an address.
        container: the stream, where it is already open.
        retries: attempts to reconnect.
        wait: seconds before the first of them.

    Attributes:
        name: what messages call it.
        rate: frames per second, about.
        pixel_aspect: width of a pixel divided by its height.
        problems: why it ended.

    Raises:
        UnreadableVideo: there is no such camera, or the address cannot be opened.
    """

    def __init__(
        self, source: str, container: Any = None, *, retries: int = 5, wait: float = 1
    ) -> None:
        self.source, self.name = source, public_name(source)
        self.retries, self.wait = retries, wait
        self.problems: list[str] = []
        self.av = pyav.load()
        self.container = container or open_live(source)
        try:
            stream = video_stream(self.container, self.name)
        except UnreadableVideo:
            self.container.close()
            raise
        self.rate = float(stream.average_rate or 25)
        self.pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        self.changed = threading.Condition()
        self.stopped = threading.Event()
        self.newest: Arrived | None = None
        self.ended = False
        self.thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Stop reading, so that nobody waits for a frame."""
        with self.changed:
            self.stopped.set()
            self.changed.notify()

    def close(self) -> None:
        """End the thread; a server that is silent just now is not waited for."""
        self.stop()
        if self.thread.is_alive():
            self.thread.join(timeout=1)

    def expected(self, start: float, end: float | None, stride: int) -> int | None:
        """How many frames there will be is unknown."""
        return None

    def frames(
        self, start: float = 0, end: float | None = None, stride: int = 1
    ) -> Generator[Frame, None, None]:
        """The newest frame, each time that one is asked for; ends after `end` seconds.

        Frames are numbered as they arrive, and their time is that of their arrival.

        Args:
            start: seconds that are skipped.
            end: seconds after the first frame.
            stride: only every `stride`-th frame counts.
        """
        self.stride = stride
        self.thread.start()
        last = -1
        while True:
            with self.changed:
                while not self._has_changed(last):
                    self.changed.wait()
                newest = self.newest
            if self.stopped.is_set() or newest is None or newest.number <= last:
                return
            if end is not None and newest.time >= end:
                return
            last = newest.number
            if newest.time >= start:
                yield Frame(newest.number, newest.time, upright(newest.decoded))

    def _has_changed(self, last: int) -> bool:
        later = self.newest is not None and self.newest.number > last
        return later or self.ended or self.stopped.is_set()

    def _read(self) -> None:
        """Keep the newest frame, connecting again where that is needed; in a thread."""
        number, first, failures = -1, 0.0, 0
        why = 'it has ended'
        try:
            while not self.stopped.is_set():
                try:
                    for decoded in self._decoded():
                        now = time.monotonic()
                        number, failures = number + 1, 0
                        first = first or now
                        if number % self.stride:
                            continue
                        with self.changed:
                            self.newest = Arrived(number, now - first, decoded)
                            self.changed.notify()
                    why = 'it has ended'
                except (UnreadableVideo, self.av.FFmpegError) as error:
                    why = pyav.reason(error)
                self.container = None
                if self.stopped.is_set():
                    return
                if failures == self.retries:
                    self.problems.append(f'the connection is lost: {why}')
                    return
                seconds = min(LONGEST_WAIT, self.wait * 2**failures)
                failures += 1
                console.note(
                    f'{self.name}: {why}; connecting again in {seconds:g} s '
                    f'({failures} of {self.retries})'
                )
                self.stopped.wait(seconds)
        except Exception as error:  # in a thread: the reader raises it
            self.problems.append(f'{type(error).__name__}: {error}')
            raise
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify()

    def _decoded(self) -> Iterator[Any]:
        with contextlib.closing(self.container or open_live(self.source)) as container:
            for packet in container.demux(video_stream(container, self.name)):
                if self.stopped.is_set():
                    return
                with contextlib.suppress(self.av.error.InvalidDataError):  # in the air
                    yield from packet.decode()


def open_live(source: str) -> Any:
    """Open a camera or an address for reading, by PyAV.

    Raises:
        UnreadableVideo: it cannot be opened.
    """
    name = public_name(source)
    if is_address(source):
        options = {'analyzeduration': '500000'}  # microseconds; default: 5 seconds
        if source.lower().startswith('rtsp'):
            options['rtsp_transport'] = 'tcp'
        return open_container(source, name, options=options)
    camera = CAMERAS.get(sys.platform)
    if camera is None:
        raise UnreadableVideo(f'{name}: cameras are read on Linux and macOS only: pass an address')
    return open_container(camera.device.format(source), name, format=camera.format)
