"""Count the objects of a video in zones and across lines, by supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from effvim.video.reading import UnreadableVideo
from effvim.video.settings import Points

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction


class Counters:
    """Zones and lines of one video.

    An object is in a zone if the middle of its lower edge is. An object crosses a line when all of
    its box has changed sides; `in` is to the left of the line, seen from its first point.

    Args:
        zones: polygons, x y in pixels of the upright frame.
        lines: of two points each.
        size: width and height of the frames.
        name: what messages call the video.

    Raises:
        UnreadableVideo: a point lies outside the frames.
    """

    def __init__(
        self,
        zones: Sequence[Points],
        lines: Sequence[Points],
        size: tuple[int, int],
        name: str = 'the video',
    ) -> None:
        import supervision as sv

        width, height = size
        for x, y in (point for points in (*zones, *lines) for point in points):
            if not (0 <= x <= width and 0 <= y <= height):
                raise UnreadableVideo(
                    f'the point {x:g},{y:g} of --zone or --line is outside the frames of '
                    f'{name}, {width} × {height} pixels'
                )
        self.zones = [sv.PolygonZone(np.rint(np.array(points)).astype(int)) for points in zones]
        self.lines = [sv.LineZone(sv.Point(*start), sv.Point(*end)) for start, end in lines]

    def update(self, prediction: Prediction) -> None:
        """Count the objects of the next frame; lines need identities."""
        import supervision as sv

        detections = sv.Detections(
            np.asarray(prediction.boxes, np.float64).reshape(-1, 4),
            class_id=prediction.labels,
            tracker_id=prediction.track_ids,
        )
        for zone in self.zones:
            zone.trigger(detections)
        for line in self.lines:
            line.trigger(detections)

    def as_json(self) -> dict[str, Any]:
        """The counts: objects in each zone now, and those that have crossed each line so far."""
        counts: dict[str, Any] = {}
        if self.zones:
            counts['zones'] = [zone.current_count for zone in self.zones]
        if self.lines:
            counts['lines'] = [{'in': line.in_count, 'out': line.out_count} for line in self.lines]
        return counts

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Draw zones, lines and counts into an image, H W 3."""
        import supervision as sv

        scale = max(0.4, max(image.shape) / 1600)
        style: dict[str, Any] = {'thickness': 2, 'text_scale': scale, 'text_thickness': 1}
        for zone in self.zones:
            image = sv.PolygonZoneAnnotator(zone, text_padding=4, **style).annotate(image)
        for line in self.lines:
            image = sv.LineZoneAnnotator(text_padding=4, **style).annotate(image, line)
        return image

    def summary(self) -> str:
        """The counts in words."""
        zones = [f'zone {i}: {zone.current_count}' for i, zone in enumerate(self.zones, 1)]
        lines = [
            f'line {i}: {line.in_count} in, {line.out_count} out'
            for i, line in enumerate(self.lines, 1)
        ]
        return '; '.join(zones + lines)
