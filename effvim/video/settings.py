"""How videos are predicted; importing this needs no torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Sequence
from typing import NamedTuple

from backbone.errors import UserError

Points = Sequence[tuple[float, float]]

INSTALL = "pip install '.[video]'"


class Encoder(NamedTuple):
    """How FFmpeg encodes a codec.

    Attributes:
        name: of the encoder.
        options: of the encoder.
    """

    name: str
    options: dict[str, str]


# libx264 is under the GPL; the others are under the LGPL or BSD licences. Without frames that refer
# to later ones ('bf'): FFmpeg would state too short a duration where the frame rate varies.
CODECS = {
    'h264': Encoder('libx264', {'preset': 'veryfast', 'crf': '21', 'bf': '0'}),
    'vp9': Encoder(
        'libvpx-vp9',
        {'deadline': 'realtime', 'cpu-used': '8', 'crf': '32', 'b': '0', 'row-mt': '1'},
    ),
    'av1': Encoder('libsvtav1', {'preset': '9', 'crf': '35'}),
    'mpeg4': Encoder('mpeg4', {'qmin': '3', 'qmax': '6'}),
}

# Name: the class in the library `trackers`.
TRACKERS = {
    'bytetrack': 'ByteTrackTracker',
    'ocsort': 'OCSORTTracker',
    'botsort': 'BoTSORTTracker',
    'sort': 'SORTTracker',
    'cbiou': 'CBIoUTracker',
}


@dataclasses.dataclass
class VideoSettings:
    """How videos are predicted.

    Attributes:
        score_thr: objects that score lower are dropped, unless they continue a track.
        json: also write a line of JSON for each frame.
        codec: of the annotated video, one of `CODECS`.
        start: seconds at the start that are skipped.
        end: seconds after which the rest is skipped.
        stride: predict and write every `stride`-th frame.
        track: one of `TRACKERS`; None: no tracking.
        mot: also write the tracks in MOTChallenge's format.
        classes: names of the classes that are kept; all if empty.
        zones: polygons to count in, points x y in pixels.
        lines: lines to count across, two points each.
        reconnect: attempts to connect again to a camera or a stream.
    """

    score_thr: float = 0.3
    json: bool = False
    codec: str = 'h264'
    start: float = 0
    end: float | None = None
    stride: int = 1
    track: str | None = None
    mot: bool = False
    classes: Sequence[str] = ()
    zones: Sequence[Points] = ()
    lines: Sequence[Points] = ()
    reconnect: int = 5

    def check(self, segments: bool = False) -> None:
        """Check that the settings go together and fit the network.

        Args:
            segments: the network is a segmentor.

        Raises:
            UserError: they do not, or what they need is not installed.
        """
        if self.stride < 1 or not 0 <= self.start < math.inf or self.reconnect < 0:
            raise UserError('--stride must be at least 1, --start and --reconnect at least 0')
        if any(len(zone) < 3 for zone in self.zones):
            raise UserError('--zone takes at least three points: X,Y,X,Y,X,Y')
        if any(len(line) != 2 or line[0] == line[1] for line in self.lines):
            raise UserError('--line takes two different points: X,Y,X,Y')
        if self.track and self.track not in TRACKERS:
            raise UserError(f'--track {self.track}: choose from {", ".join(TRACKERS)}')
        if self.codec not in CODECS:
            raise UserError(f'--codec {self.codec}: choose from {", ".join(CODECS)}')
        if self.end is not None and not self.end > self.start:  # or NaN
            raise UserError(f'--end {self.end:g} must be after --start {self.start:g}')
        for flag, given in (('--mot', self.mot), ('--line', self.lines)):
            if given and not self.track:
                raise UserError(f'{flag} needs identities: add --track')
        if self.track:
            check_trackers()
        if segments and (self.track or self.zones or self.classes):
            raise UserError('--track, --zone and --classes need a detector: this is a segmentor')


def check_installed() -> None:
    """Check that videos can be read and written.

    Raises:
        UserError: PyAV is not installed.
    """
    if importlib.util.find_spec('av') is None:
        raise UserError(f'videos, cameras and streams need PyAV, which is not installed: {INSTALL}')


def check_trackers() -> None:
    """Check that objects can be tracked.

    Raises:
        UserError: the library is not installed.
    """
    if importlib.util.find_spec('trackers') is None:
        raise UserError(f'--track needs the library trackers, which is not installed: {INSTALL}')
