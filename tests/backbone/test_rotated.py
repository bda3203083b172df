"""Overlap and NMS of rotated boxes, through `mmcv.ops`, against plain loops."""

import importlib

import numpy as np
import pytest
import torch

from tests.helpers.operators import TYPES, mmcv_ops

# --- overlap of rotated boxes

# of mmcv's test_box_iou_rotated.py
FIRST = [[1.0, 1, 3, 4, 0.5], [2, 2, 3, 4, 0.6], [7, 7, 8, 8, 0.4]]
SECOND = [[0.0, 2, 2, 5, 0.3], [2, 1, 3, 3, 0.5], [5, 5, 6, 7, 0.4]]
MMCV_OVERLAPS = {
    'iou': [[0.3708, 0.4351, 0], [0.1104, 0.4487, 0.0424], [0, 0, 0.3622]],
    'iof': [[0.4959, 0.5306, 0], [0.1823, 0.5420, 0.1832], [0, 0, 0.4404]],
}


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('clockwise', [True, False])
def test_overlaps_of_mmcvs_tests(mode, clockwise, device):
    first, second = torch.tensor(FIRST, device=device), torch.tensor(SECOND, device=device)
    if not clockwise:
        first[:, 4] *= -1
        second[:, 4] *= -1
    matrix = mmcv_ops.box_iou_rotated(first, second, mode, clockwise=clockwise)
    np.testing.assert_allclose(matrix.cpu(), MMCV_OVERLAPS[mode], atol=1e-4)
    pairs = mmcv_ops.box_iou_rotated(first, second, mode, aligned=True, clockwise=clockwise)
    np.testing.assert_allclose(pairs.cpu(), np.diag(MMCV_OVERLAPS[mode]), atol=1e-4)


def corners(box):
    x, y, w, h, angle = box
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return [
        turn @ (sx * w / 2, sy * h / 2) + (x, y) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def cross(a, b):
    return a[0] * b[1] - a[1] * b[0]


def plain_intersection(first, second):
    """Cut the first polygon along each side of the second (Sutherland and Hodgman, 1974)."""
    polygon, cutter = corners(first), corners(second)
    for a, b in zip(cutter, cutter[1:] + cutter[:1]):
        side = [cross(b - a, p - a) for p in polygon]
        kept = []
        for i in range(len(polygon)):
            if side[i - 1] * side[i] < 0:
                part = side[i - 1] / (side[i - 1] - side[i])
                kept.append(polygon[i - 1] + part * (polygon[i] - polygon[i - 1]))
            if side[i] >= 0:
                kept.append(polygon[i])
        polygon = kept
    return sum(cross(polygon[i - 1], polygon[i]) for i in range(len(polygon))) / 2


def random_rotated(count, seed, spread=20):
    rng = np.random.default_rng(seed)
    low, high = [0, 0, 1, 1, -np.pi], [spread, spread, 12, 12, np.pi]
    return rng.uniform(low, high, (count, 5))


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('chunk', [2**17, 7])
def test_overlap_of_rotated_boxes(mode, chunk, monkeypatch, device):
    monkeypatch.setattr('backbone.openmmlab.rotated._PAIRS', chunk)
    first, second = random_rotated(30, 0), random_rotated(20, 1)
    expected = np.zeros((30, 20))
    for i, j in np.ndindex(30, 20):
        shared, area = plain_intersection(first[i], second[j]), first[i, 2] * first[i, 3]
        union = area + second[j, 2] * second[j, 3] - shared
        expected[i, j] = shared / (union if mode == 'iou' else area)
    assert 100 < (expected > 0).sum() < 500 and (mode == 'iou' or expected.max() > 0.999)
    a, b = torch.tensor(first, device=device), torch.tensor(second, device=device)
    found = mmcv_ops.box_iou_rotated(a, b, mode)
    np.testing.assert_allclose(found.cpu(), expected, atol=1e-12)
    pairs = mmcv_ops.box_iou_rotated(a[:20], b, mode, aligned=True)
    np.testing.assert_allclose(pairs.cpu(), np.diag(expected), atol=1e-12)
    # far from the origin, as batched_nms moves boxes
    a[:, :2] += 4096
    b[:, :2] += 4096
    found = mmcv_ops.box_iou_rotated(a.float(), b.float(), mode)
    np.testing.assert_allclose(found.cpu(), expected, atol=2e-3)


@pytest.mark.parametrize('dtype', TYPES)
def test_overlap_where_sides_coincide(dtype, device):
    """Nothing jumps: the same box, a quarter turn, halves, neighbours, corners in corners."""
    box = [8.0, 8, 4, 2, 0]
    others = torch.tensor(
        [
            box,
            [8, 8, 2, 4, 0],
            [7, 8, 2, 2, 0],
            [12, 8, 4, 2, 0],
            [8, 10, 4, 2, 0],
            [12, 10, 4, 2, 0],
        ],
        dtype=torch.float64,
    )
    expected = [1, 1 / 3, 0.5, 0, 0, 0]
    tolerance = 8 * torch.finfo(dtype).eps
    for angle in torch.arange(0, 3.2, 0.1).tolist():
        turn = others.new_tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        boxes = torch.cat([(others[:, :2] - 8) @ turn + 8, others[:, 2:]], 1)
        boxes[:, 4] = angle
        boxes = boxes.to(device, dtype)
        found = mmcv_ops.box_iou_rotated(boxes[:1], boxes)[0]
        assert found.dtype == dtype
        near = 20 * torch.finfo(dtype).eps  # the centres are rounded, to 8 eps
        np.testing.assert_allclose(found.cpu().double(), expected, atol=near)
        assert abs(found[0] - 1) <= tolerance and (found <= 1).all() and (found >= 0).all()
    turned = others[:1].repeat(4, 1).to(device, dtype)
    turned[:, 4] = torch.arange(4, device=device).double() * np.pi / 2
    found = mmcv_ops.box_iou_rotated(turned[:1], turned)[0]
    np.testing.assert_allclose(found.cpu().double(), [1, 1 / 3, 1, 1 / 3], atol=tolerance)


def test_overlap_far_from_the_origin(device):
    """Where squares of coordinates have no digits left for a distance."""
    boxes = torch.tensor(random_rotated(60, 0), dtype=torch.float32, device=device)
    boxes[:, :2] = boxes[:, :2].round()
    far = boxes + torch.tensor([2e6, 1e6, 0, 0, 0], device=device)
    expected = mmcv_ops.box_iou_rotated(boxes, boxes)
    assert (expected > 0).sum() > 500
    assert torch.equal(mmcv_ops.box_iou_rotated(far, far), expected)
    scores = torch.arange(60, device=device) / 60
    keep = [mmcv_ops.nms_rotated(b, scores, 0.3)[1] for b in (boxes, far)]
    assert torch.equal(*keep) and 5 < len(keep[0]) < 55


def test_overlap_is_between_0_and_1(device):
    """Whatever is rounded: of neighbours, of boxes that are equal but for a half turn or a hair."""
    boxes = torch.tensor(random_rotated(5000, 0), dtype=torch.float32, device=device)
    across = torch.stack([boxes[:, 4].cos(), boxes[:, 4].sin()], 1) * boxes[:, 2:3]
    neighbours = torch.cat([boxes[:, :2] + across, boxes[:, 2:]], 1)
    turned = boxes + torch.tensor([0, 0, 0, 0, np.pi], dtype=torch.float32, device=device)
    wider = boxes * torch.tensor([1, 1, 1.00001, 1, 1], device=device)
    for others, expected in ((neighbours, 0), (turned, 1), (wider, 1)):
        for mode in ('iou', 'iof'):
            found = mmcv_ops.box_iou_rotated(boxes, others, mode, aligned=True)
            assert (found >= 0).all() and (found <= 1).all()
            assert (found - expected).abs().max() < 2e-5


def test_boxes_without_area_overlap_nothing(device):
    boxes = torch.tensor([[5.0, 5, 4, 0, 0.3], [5, 5, 0, 0, 0], [5, 5, 4, 4, 0.3]], device=device)
    found = mmcv_ops.box_iou_rotated(boxes, boxes)
    torch.testing.assert_close(found, torch.diag(torch.tensor([0.0, 0, 1], device=device)))
    assert not mmcv_ops.box_iou_rotated(boxes[:2], boxes[:2], 'iof', aligned=True).any()


@pytest.mark.parametrize('aligned', [True, False])
def test_overlap_of_no_rotated_boxes(aligned, device):
    none, one = torch.zeros(0, 5, device=device), torch.ones(1, 5, device=device)
    if aligned:
        assert mmcv_ops.box_iou_rotated(none, none, aligned=True).shape == (0,)
    else:
        assert mmcv_ops.box_iou_rotated(none, one).shape == (0, 1)
        assert mmcv_ops.box_iou_rotated(one, none).shape == (1, 0)


# --- NMS of rotated boxes

# of mmcv's test_nms_rotated.py
BOXES = [
    [6.0, 3, 8, 7, 0.5, 0.7],
    [3, 6, 9, 11, 0.6, 0.8],
    [3, 7, 10, 12, 0.3, 0.5],
    [1, 4, 13, 7, 0.6, 0.9],
]


@pytest.mark.parametrize('labels', [None, [1.0, 0, 1, 0]])
@pytest.mark.parametrize('clockwise', [True, False])
@pytest.mark.parametrize('dtype', TYPES)
def test_nms_of_mmcvs_tests(labels, clockwise, dtype, device):
    """Labels change nothing in mmcv's operators, nor in its tests."""
    boxes = torch.tensor(BOXES, device=device, dtype=dtype)
    if not clockwise:
        boxes[:, 4] *= -1
    labels = None if labels is None else torch.tensor(labels, device=device, dtype=dtype)
    dets, keep = mmcv_ops.nms_rotated(boxes[:, :5], boxes[:, 5], 0.5, labels, clockwise)
    assert keep.tolist() == [3, 1, 0] and keep.dtype == torch.int64
    assert torch.equal(dets, boxes[keep])


@pytest.mark.parametrize('agnostic,expected', [(True, [3, 1, 0]), (False, [3, 1, 0, 2])])
def test_batched_nms_of_mmcvs_tests(agnostic, expected, device):
    boxes = torch.tensor(BOXES, device=device)
    labels = torch.tensor([1.0, 0, 1, 0], device=device)
    cfg = dict(type='nms_rotated', iou_threshold=0.5)
    dets, keep = mmcv_ops.batched_nms(boxes[:, :5], boxes[:, 5], labels, cfg, agnostic)
    assert keep.tolist() == expected
    assert torch.equal(dets, boxes[keep])


def test_nms_of_rotated_boxes(device):
    for seed in range(3):
        boxes = random_rotated(60, seed, spread=40)
        scores = np.random.default_rng(seed).permutation(60) / 60
        overlaps = np.array(
            [
                [(s := plain_intersection(a, b)) / (a[2] * a[3] + b[2] * b[3] - s) for b in boxes]
                for a in boxes
            ]
        )
        keep = []
        for i in np.argsort(-scores):
            if all(overlaps[i, j] <= 0.2 for j in keep):
                keep.append(int(i))
        assert 10 < len(keep) < 50
        for labels in (None, torch.arange(60, device=device) % 3):
            found = mmcv_ops.nms_rotated(
                torch.tensor(boxes, device=device), torch.tensor(scores, device=device), 0.2, labels
            )[1]
            assert found.tolist() == keep


def test_nms_of_rotated_boxes_keeps_those_at_the_threshold(device):
    boxes = torch.tensor([[4.0, 4, 4, 2, 0], [3, 4, 2, 2, 0]], device=device)  # overlap by a half
    scores = torch.tensor([0.9, 0.8], device=device)
    assert mmcv_ops.nms_rotated(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert mmcv_ops.nms_rotated(boxes, scores, 0.4999)[1].tolist() == [0]


def test_nms_of_no_rotated_boxes(device):
    """mmcv returns before it calls the operator, which can be called as well."""
    none = torch.zeros(0, 5, device=device)
    assert mmcv_ops.nms_rotated(none, none[:, 0], 0.5)[0].shape == (0, 5)
    order = torch.zeros(0, dtype=torch.int64, device=device)
    ext = importlib.import_module('mmcv._ext')
    keep = ext.nms_rotated(none, none[:, 0], order, none, none[:, 0], 0.5, False)
    assert keep.shape == (0,) and keep.dtype == torch.int64
