"""The audio of a video, for the annotated copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from effvim.video import pyav
from effvim.video.reading import VideoFile, open_container

# Codecs that players take in MP4. FFmpeg allows more there: uncompressed audio, which hardly any
# player takes, and TrueHD, whose file it then refuses to write.
COPIED = ('aac', 'ac3', 'alac', 'eac3', 'flac', 'mp2', 'mp3', 'opus', 'vorbis')

AAC_RATES = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)

# What AAC takes, by the number of channels: the source may not say where its channels belong.
AAC_LAYOUTS = {1: 'mono', 2: 'stereo', 3: '3.0', 4: '4.0', 5: '5.0', 6: '5.1', 8: '7.1'}


class AudioTrack:
    """Copies the first audio track of a video into an output file, or encodes it as AAC.

    It is copied where its codec is one of `COPIED`.

    Args:
        video: the video.
        start: seconds that are cut off at its start.

    Attributes:
        problem: why there is no audio from some moment on; '' if all is well.
    """

    def __init__(self, video: VideoFile, start: float) -> None:
        self.av = pyav.load()
        self.offset = start + video.start_time
        self.problem = ''
        self.target: Any = None
        self.copies = True
        self.written = float('-inf')  # seconds of the output
        self.last_dts = float('-inf')
        self.container = open_container(video.source, video.name)
        self.source = next(iter(self.container.streams.audio), None)
        if start:
            self.container.seek(int(self.offset * 1e6))
        self.packets = self._packets(cut=bool(start))

    def add_to(self, output: Any) -> None:
        """Add a stream for the audio to an output container, before anything is written there."""
        if self.source is None:
            return
        context = self.source.codec_context
        if context is None:
            self.problem = 'this PyAV has no decoder for its codec'
            return
        self.copies = context.codec.canonical_name in COPIED
        try:
            if self.copies:
                self.target = output.add_stream_from_template(self.source)
            else:
                rate = context.sample_rate if context.sample_rate in AAC_RATES else 48000
                self.target = output.add_stream('aac', rate=rate)
                layout = AAC_LAYOUTS.get(context.layout.nb_channels, 'stereo')
                self.target.codec_context.layout = layout
        except (self.av.FFmpegError, ValueError) as error:
            self.problem = pyav.reason(error)

    def write(self, output: Any, until: float) -> None:
        """Write the audio up to a time, in seconds of the output."""
        while self.target and not self.problem and self.written < until:
            packet = next(self.packets, None)
            if packet is None:
                return
            self.written = float(packet.pts * packet.time_base) - self.offset
            if self.copies:
                shift = round(self.offset / packet.time_base)
                packet.dts = (packet.pts if packet.dts is None else packet.dts) - shift
                packet.pts -= shift
                if packet.dts <= self.last_dts:  # which no file may hold
                    self.problem = f'its timestamps go back at {self.written:.2f} s'
                    return
                self.last_dts = packet.dts
                packet.stream = self.target
                output.mux(packet)
                continue
            for frame in self._decoded(packet):
                if frame.pts is not None:
                    frame.pts -= round(self.offset / frame.time_base)
                output.mux(self._encoded(frame))

    def finish(self, output: Any) -> None:
        """Write what the encoder still holds, and close the source."""
        if self.target and not self.copies and self.written > float('-inf'):
            output.mux(self._encoded(None))
        self.container.close()

    def _encoded(self, frame: Any) -> list[Any]:
        try:
            return self.target.encode(frame)
        except (self.av.FFmpegError, ValueError) as error:
            self.problem = pyav.reason(error)
            return []

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except self.av.FFmpegError as error:
            self.problem = pyav.reason(error)
            return []

    def _packets(self, cut: bool) -> Iterator[Any]:
        """Packets of the source; with `cut` those from the offset on."""
        try:
            for packet in self.container.demux(self.source):
                if packet.pts is None:
                    continue
                if cut and float(packet.pts * packet.time_base) < self.offset:
                    continue
                yield packet
        except self.av.FFmpegError as error:
            self.problem = pyav.reason(error)
