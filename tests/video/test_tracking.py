"""Identities of objects that cross and leave, and what zones and lines count of them."""

import json

import numpy as np
import pytest

from effvim.inference.prediction import Prediction
from effvim.video.counting import Counters
from effvim.video.predicting import predict_video
from effvim.video.settings import TRACKERS, VideoSettings
from effvim.video.tracking import Tracker
from tests.helpers.videos import CLASSES, ColourDetector, crossing, draw, read_video, write_video

FRAMES, RATE = 60, 25


def track(name, hidden=(), low=()):
    """Identities of both objects of `crossing` in each frame, from their true boxes.

    hidden: frames in which the detector misses the second object; low: those in which it scores
    0.15.
    """
    tracker = Tracker(name, 0.3, RATE)
    found = []
    for i, boxes in enumerate(crossing(FRAMES)):
        kept = [0] if i in hidden else [0, 1]
        scores = [0.9, 0.15 if i in low else 0.8][: len(kept)]
        image = draw(boxes)
        prediction = Prediction(
            image, CLASSES, np.float32(boxes[kept]), np.float32(scores), np.array(kept)
        )
        tracked = tracker.update(prediction, i / RATE)
        assert (np.diff(tracked.scores) <= 0).all()
        found.append(dict(zip(tracked.labels.tolist(), tracked.track_ids.tolist())))
    return found


@pytest.mark.parametrize('name', TRACKERS)
def test_identities_are_kept_through_the_crossing(name):
    found = track(name)
    for label in (0, 1):
        numbers = [frame[label] for frame in found if label in frame]
        assert set(numbers) - {-1} and len(set(numbers) - {-1}) == 1
        assert numbers[5:-8].count(-1) == 0
    first, second = ({frame.get(label) for frame in found[5:-8]} for label in (0, 1))
    assert first.isdisjoint(second) and min(first | second) >= 1


def test_an_object_of_low_score_continues_its_track():
    """Scores below the threshold are not dropped before tracking; they start no track."""
    found = track('bytetrack', low=range(20, 40))
    before, during = found[15][1], {frame.get(1) for frame in found[20:40]}
    assert during == {before} and before >= 1
    never = track('bytetrack', low=range(FRAMES))
    assert {frame.get(1) for frame in never} == {None}


def test_an_object_predicted_as_two_classes_is_one():
    tracker = Tracker('bytetrack', 0.3, RATE)
    for i, boxes in enumerate(crossing(10)):
        both = np.float32([boxes[0], boxes[0] + 1, boxes[1]])
        prediction = Prediction(
            draw(boxes), CLASSES, both, np.float32([0.9, 0.8, 0.7]), np.array([0, 1, 1])
        )
        tracked = tracker.update(prediction, i / RATE)
        assert tracked.labels.tolist() == [0, 1]
    assert sorted(tracked.track_ids) == [1, 2]


def test_an_object_that_is_missed_for_a_while_keeps_its_identity():
    found = track('bytetrack', hidden=range(30, 36))
    assert found[29][1] == found[40][1] >= 1
    assert all(1 not in frame for frame in found[30:36])


def test_a_video_is_tracked(tmp_path):
    """Identities in JSON and in MOTChallenge's format, and both drawn."""
    boxes = write_video(tmp_path / 'a.mp4', FRAMES, rate=RATE)
    settings = VideoSettings(json=True, track='bytetrack', mot=True)
    predict_video(ColourDetector(), tmp_path / 'a.mp4', tmp_path / 'out', settings, progress=False)
    lines = [json.loads(line) for line in (tmp_path / 'out/videos/a.jsonl').open()]
    numbers = {name: set() for name in CLASSES}
    scores = []
    for line in lines:
        for one in line['objects']:
            numbers[one['class']].add(one['track_id'])
            scores.append((one['score'], one['track_id']))
    assert None in numbers['red'], 'not in the first frame'
    assert all(len(found - {None}) == 1 for found in numbers.values())
    assert numbers['red'] - {None} != numbers['blue'] - {None}
    low = [number for score, number in scores if score < 0.3]
    assert low and None not in low
    table = np.loadtxt(tmp_path / 'out/mot/a.txt', delimiter=',')
    tracked = [one for line in lines for one in line['objects'] if one['track_id']]
    assert table.shape == (len(tracked), 9) and table[:, 0].min() >= 2
    assert table[:, 0].max() <= FRAMES
    for frame, number, x, y, width, height, score, label, visibility in table:
        one = next(o for o in lines[int(frame) - 1]['objects'] if o['track_id'] == number)
        np.testing.assert_allclose(one['bbox'], (x, y, width, height), atol=0.01)
        assert abs(one['score'] - score) < 1e-4 and visibility == -1
        assert label == 1 + CLASSES.index(one['class'])
    # the library that evaluates it reads it, against the true boxes
    assert mota(boxes, tmp_path) > 0.75
    images, _ = read_video(tmp_path / 'out/videos/a.mp4')
    assert len(images) == FRAMES


def mota(boxes, folder):
    """MOTA of mot/a.txt by trackers' own evaluation."""
    from trackers.eval import evaluate_mot_sequence

    with open(folder / 'gt.txt', 'w') as file:
        for i, of_frame in enumerate(boxes, 1):
            for number, (x1, y1, x2, y2) in enumerate(of_frame, 1):
                x1, x2 = np.clip((x1, x2), 0, 160)
                if x2 - x1 > 4:
                    file.write(f'{i},{number},{x1},{y1},{x2 - x1},{y2 - y1},1,1,1\n')
    result = evaluate_mot_sequence(folder / 'gt.txt', folder / 'out/mot/a.txt', metrics=['CLEAR'])
    return result.CLEAR.MOTA


def test_classes_are_kept_and_dropped(tmp_path):
    write_video(tmp_path / 'a.mp4', 10)
    settings = VideoSettings(json=True, classes=['blue'], track='sort')
    predict_video(ColourDetector(), tmp_path / 'a.mp4', tmp_path / 'out', settings, progress=False)
    lines = [json.loads(line) for line in (tmp_path / 'out/videos/a.jsonl').open()]
    assert {one['class'] for line in lines for one in line['objects']} == {'blue'}


def test_zones_and_lines_count(tmp_path):
    """Red crosses the line from left to right, blue from right to left, both the zone."""
    write_video(tmp_path / 'a.mp4', FRAMES, rate=RATE)
    settings = VideoSettings(
        json=True,
        track='bytetrack',
        zones=[[(60, 20), (100, 20), (100, 110), (60, 110)]],
        lines=[[(80, 119), (80, 0)], [(0, 5), (159, 5)]],
    )
    result = predict_video(
        ColourDetector(), tmp_path / 'a.mp4', tmp_path / 'out', settings, progress=False
    )
    lines = [json.loads(line) for line in (tmp_path / 'out/videos/a.jsonl').open()]
    for line in lines:
        feet = [x + width / 2 for x, y, width, height in (o['bbox'] for o in line['objects'])]
        assert line['zones'] == [sum(60 <= round(x) <= 100 for x in feet)]
    counts = [line['lines'] for line in lines]
    assert counts[0] == [{'in': 0, 'out': 0}] * 2
    assert counts[-1] == [{'in': 1, 'out': 1}, {'in': 0, 'out': 0}]
    assert max(line['zones'][0] for line in lines) == 2
    assert 'line 1: 1 in, 1 out; line 2: 0 in, 0 out' in result.counts


def test_left_of_the_line_is_in():
    """Seen from its first point, in an image, whose y points down."""
    counters = Counters([], [[(0, 50), (100, 50)]], (100, 100))
    for y in (70, 60, 20):
        box = np.float32([[40, y, 50, y + 10]])
        counters.update(
            Prediction(
                np.zeros((100, 100, 3), np.uint8),
                CLASSES,
                box,
                np.float32([1]),
                np.array([0]),
                track_ids=np.array([1]),
            )
        )
    assert counters.as_json() == {'lines': [{'in': 1, 'out': 0}]}
    image = np.zeros((100, 100, 3), np.uint8)
    assert counters.draw(image.copy()).any()


def test_identities_are_written_into_the_image():
    image = draw(crossing(9)[2])
    boxes, scores = np.float32([[20, 40, 50, 70]]), np.float32([0.9])
    drawn = [
        np.array(
            Prediction(image, CLASSES, boxes, scores, np.array([0]), track_ids=track_ids).draw()
        )
        for track_ids in (None, np.array([-1]), np.array([7]))
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
