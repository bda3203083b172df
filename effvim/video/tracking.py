"""Identities of the objects of a video, by the library `trackers`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from effvim.video.settings import TRACKERS, check_trackers

if TYPE_CHECKING:
    import supervision as sv

    from effvim.inference.prediction import Prediction

MOVING_CAMERA = ('botsort',)  # these compare frames to compensate for the camera's motion

THRESHOLDS = ('track_activation_threshold', 'high_conf_det_threshold')  # parameters of the classes

LOWEST_SCORE = 0.1  # objects below it are noise, as in the publication of ByteTrack


SAME_BOX = 0.8  # intersection over union


class Tracker:
    """Gives the objects of one video identities that last from frame to frame.

    Args:
        name: one of `TRACKERS`.
        score_thr: objects that score at least as much start a track; others only continue one.
        frame_rate: frames per second that are tracked, about.
    """

    def __init__(self, name: str, score_thr: float, frame_rate: float) -> None:
        check_trackers()

        import trackers

        kind = getattr(trackers, TRACKERS[name])
        known = inspect.signature(kind).parameters
        thresholds = {key: score_thr for key in THRESHOLDS if key in known}
        self.tracker: Any = kind(frame_rate=frame_rate, **thresholds)
        self.score_thr, self.sees_frames = score_thr, name in MOVING_CAMERA

    def update(self, prediction: Prediction, time: float) -> Prediction:
        """The prediction for the next frame with identities.

        Objects that have no identity and score less than `score_thr` are dropped.

        Args:
            prediction: of a detector, with objects of low score.
            time: of the frame in seconds, later than that of the frame before.
        """
        prediction = prediction.above(min(LOWEST_SCORE, self.score_thr))
        detections = _detections(prediction)
        # an object that is predicted as two classes is one object
        kept = detections.with_nms(SAME_BOX, class_agnostic=True).data['place']
        prediction = prediction.only(np.isin(np.arange(len(prediction.scores)), kept))
        detections = _detections(prediction)
        frame = prediction.image[..., ::-1] if self.sees_frames else None  # BGR
        tracked = self.tracker.update(detections, frame, timestamp=time)
        track_ids = np.full(len(prediction.scores), -1)
        if len(tracked):  # in any order
            numbers = np.asarray(tracked.tracker_id)
            # the library counts from 0, MOTChallenge from 1; both have -1 for no identity
            track_ids[tracked.data['place']] = np.where(numbers >= 0, numbers + 1, -1)
        prediction = dataclasses.replace(prediction, track_ids=track_ids)
        return prediction.only((prediction.scores >= self.score_thr) | (track_ids >= 0))


def _detections(prediction: Prediction) -> sv.Detections:
    """The objects as supervision has them, with their places in the prediction."""
    import supervision as sv

    return sv.Detections(
        np.asarray(prediction.boxes, np.float64).reshape(-1, 4),
        confidence=prediction.scores,
        class_id=prediction.labels,
        data={'place': np.arange(len(prediction.scores))},
    )
