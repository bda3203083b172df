"""Write an annotated video."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import UserError
from effvim.video import pyav
from effvim.video.reading import UnreadableVideo
from effvim.video.settings import CODECS

if TYPE_CHECKING:
    from effvim.video.audio import AudioTrack


CONTAINER = 'mp4'  # takes all of them

# Ticks per second: whole numbers of them for all usual frame rates, and few enough for mpeg4.
TIME_BASE = Fraction(1, 60000)

BT709, LIMITED = 1, 1  # numbers of FFmpeg for the colours of the output


def check_codec(codec: str) -> None:
    """Check that this PyAV can encode one of `CODECS`.

    Raises:
        UserError: it cannot.
    """
    av = pyav.load()
    usable = [name for name, encoder in CODECS.items() if _has_encoder(av, encoder.name)]
    if codec not in usable:
        raise UserError(
            f'--codec {codec}: this PyAV has no encoder {CODECS[codec].name}: choose from '
            f'{", ".join(usable)}'
        )


def _has_encoder(av: Any, name: str) -> bool:
    try:
        av.codec.Codec(name, 'w')
    except (av.FFmpegError, ValueError):
        return False
    return True


class VideoWriter:
    """Encodes frames with their times, next to the audio of their source.

    The size is that of the first frame, its sides rounded up to even numbers as the codecs need;
    frames of another size are resized.

    Args:
        path: the file.
        codec: one of `CODECS`.
        rate: about how many frames there are in a second.
        pixel_aspect: width of a pixel divided by its height.
        audio: of the source, if it has any.

    Raises:
        UserError: the codec cannot be encoded, or the file not be written.
    """

    def __init__(
        self,
        path: str,
        codec: str,
        *,
        rate: float = 25,
        pixel_aspect: Fraction = Fraction(1),
        audio: AudioTrack | None = None,
    ) -> None:
        check_codec(codec)
        self.av = pyav.load()
        self.codec, self.encoder, self.audio = codec, CODECS[codec], audio
        self.rate, self.pixel_aspect = rate, pixel_aspect
        self.container = self.av.open(path, 'w', format=CONTAINER)
        self.stream: Any = None
        self.last = -1  # time of the last frame, in ticks

    def write(self, image: np.ndarray, time: float) -> None:
        """Encode a frame.

        Args:
            image: H W 3, uint8, RGB.
            time: seconds since the start of the output; later than that of the frame before.

        Raises:
            UnreadableVideo: the codec does not take frames of this size.
        """
        image = np.pad(image, [(0, n % 2) for n in image.shape[:2]] + [(0, 0)], 'edge')
        if self.stream is None:
            self._add_streams(*image.shape[:2])
        frame = self.av.VideoFrame.from_ndarray(image).reformat(
            self.stream.width,
            self.stream.height,
            'yuv420p',
            dst_colorspace='ITU709',
            dst_color_range='MPEG',
        )
        self.last = max(self.last + 1, round(time / TIME_BASE))
        frame.pts, frame.time_base = self.last, TIME_BASE
        self.container.mux(self.stream.encode(frame))
        if self.audio:
            self.audio.write(self.container, time)

    def _add_streams(self, height: int, width: int) -> None:
        rate = Fraction(self.rate).limit_denominator(1001)
        stream = self.container.add_stream(self.encoder.name, rate, options=self.encoder.options)
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        context = stream.codec_context
        context.time_base = TIME_BASE
        context.sample_aspect_ratio = self.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        try:
            context.open()
        except self.av.FFmpegError as error:
            raise UnreadableVideo(
                f'frames of {width} × {height} pixels cannot be encoded in {self.codec}: choose '
                f'another --codec'
            ) from error
        self.stream = stream
        if self.audio:
            self.audio.add_to(self.container)

    def close(self, until: float | None = None) -> None:
        """Write what the encoder still holds, the audio up to a time, and the end of the file.

        Args:
            until: seconds of the output (default: all of the audio).
        """
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
            if self.audio:
                self.audio.write(self.container, float('inf') if until is None else until)
                self.audio.finish(self.container)
        self.container.close()
