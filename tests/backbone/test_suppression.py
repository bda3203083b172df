"""Soft NMS, NMS with groups and NMS of lane lines, through `mmcv.ops`, against plain loops."""

import importlib
import itertools

import numpy as np
import pytest
import torch

from tests.helpers.operators import HALF, TYPES, mmcv_ops

# --- soft NMS


def iou(a, b, offset=0):
    sides = (np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]) + offset).clip(0)
    areas = [(x[2:4] - x[:2] + offset).prod() for x in (a, b)]
    return sides.prod() / (sum(areas) - sides.prod())


def plain_soft_nms(boxes, scores, threshold, sigma, least, method, offset):
    """Keep the highest-scoring box, lower the other scores, drop those below `least`; repeat."""
    left, chosen = {i: float(score) for i, score in enumerate(scores)}, []
    while left:
        best = max(left, key=left.get)
        chosen.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                left[i] *= np.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == 'linear' else 0
            if left[i] < least:
                del left[i]
    return chosen


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (40, 2))], 1)
    scores = rng.uniform(0.1, 1, 40)
    expected = plain_soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert 5 < len(expected) and (method != 'naive' or len(expected) < 40)
    dets, kept = mmcv_ops.soft_nms(
        torch.tensor(boxes), torch.tensor(scores), 0.3, 0.5, 0.05, method, offset
    )
    assert kept.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(dets[:, :4], boxes[kept])
    np.testing.assert_allclose(dets[:, 4], [score for _, score in expected], rtol=1e-6)


@pytest.mark.parametrize('method, second', [('naive', None), ('linear', 0.4)])
def test_soft_nms_lowers_from_the_threshold_on(method, second):
    """Eq. (3) of arXiv:1704.04503, the threshold itself included: an overlap of exactly a half."""
    boxes, scores = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 1.0]]), torch.tensor([0.9, 0.8])
    dets, kept = mmcv_ops.soft_nms(boxes, scores, iou_threshold=0.5, method=method)
    assert kept.tolist() == ([0] if second is None else [0, 1])
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, second][: len(kept)]))


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_of_boxes_without_area(method):
    """They overlap nothing, not even themselves; only the one of score 0 goes."""
    boxes = torch.tensor([[4, 3, 5, 3], [4, 3, 5, 4], *[[3, 1, 3, 1]] * 4]).float()
    scores = torch.tensor([0.9, 0.85, 0.5, 0.45, 0.4, 0])
    dets, kept = mmcv_ops.soft_nms(boxes, scores, iou_threshold=0.6, method=method)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[:5])


def test_soft_nms_of_nothing():
    dets, kept = mmcv_ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and kept.shape == (0,)


# --- NMS with groups


def random_dets(count, seed):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (count, 2))
    scores = (rng.permutation(count) + 1)[:, None] / 128  # distinct, exact in bfloat16
    return np.concatenate([corner, corner + rng.integers(5, 20, (count, 2)), scores], 1)


@pytest.mark.parametrize('dtype', TYPES)
def test_nms_match(dtype, device):
    for seed in range(3):
        dets = random_dets(60, seed)
        groups = []
        for i in np.argsort(-dets[:, 4]):
            for group in groups:
                if iou(dets[i], dets[group[0]]) >= 0.3137:
                    group.append(int(i))
                    break
            else:
                groups.append([int(i)])
        assert 10 < len(groups) < 50
        found = mmcv_ops.nms_match(torch.tensor(dets, dtype=dtype, device=device), 0.3137)
        assert [g.tolist() for g in found] == groups
        assert all(g.dtype == torch.int64 and g.device.type == device for g in found)
    assert [g.tolist() for g in mmcv_ops.nms_match(dets, 0.3137)] == groups  # NumPy, float64


def test_nms_match_of_mmcvs_tests():
    dets = np.array(
        [
            [49.1, 32.4, 51.0, 35.9, 0.9],
            [49.3, 32.9, 51.0, 35.3, 0.9],
            [35.3, 11.5, 39.9, 14.5, 0.4],
            [35.2, 11.7, 39.7, 15.7, 0.3],
        ],
        dtype=np.float32,
    )
    groups = mmcv_ops.nms_match(dets, 0.6)
    assert [g.tolist() for g in groups] == [[0, 1], [2, 3]]
    kept = mmcv_ops.nms(dets[:, :4], np.ascontiguousarray(dets[:, 4]), 0.6)[1]
    assert {int(g[0]) for g in groups} == set(kept.tolist())
    assert mmcv_ops.nms_match(np.array([]), 0.6) == []


def test_nms_match_at_the_threshold_and_without_area():
    ext = importlib.import_module('mmcv._ext')
    dets = torch.tensor([[0.0, 0, 4, 2, 0.9], [0, 0, 2, 2, 0.8], *[[9, 9, 9, 9, 0.7]] * 2])
    assert ext.nms_match(dets, iou_threshold=0.5) == [[0, 1], [2], [3]]
    assert ext.nms_match(dets, iou_threshold=0.5001) == [[0], [1], [2], [3]]
    assert ext.nms_match(dets[:0], iou_threshold=0.5) == []


# --- NMS of lane lines

line_nms = getattr(mmcv_ops, 'line_nms', None)  # mmcv 2.1 has none
needs_line_nms = pytest.mark.skipif(line_nms is None, reason='this mmcv has no line_nms')


def random_lines(count, rows, seed):
    """Confidences, first row, x of the start, length in rows, x at every row."""
    rng = np.random.default_rng(seed)
    lines = np.zeros((count, 5 + rows))
    first = rng.integers(0, rows // 2, count)
    lines[:, :2] = rng.uniform(size=(count, 2))
    lines[:, 2] = (first + rng.uniform(-0.3, 0.3, count) * (first > 0)) / (rows - 1)
    lines[:, 3] = rng.uniform(0, 800, count)
    lines[:, 4] = rng.integers(1, rows + 9, count) + rng.uniform(0, 0.9, count)  # also too long
    slope = rng.choice([-2.0, 0, 2], count)
    lines[:, 5:] = rng.choice([100, 300, 500], count)[:, None] + slope[:, None] * np.arange(rows)
    lines[:, 5:] += rng.uniform(0, 20, (count, rows))
    return lines, rng.permutation(count) / count


def plain_line_nms(lines, scores, threshold, top_k):
    rows = lines.shape[1] - 5

    def extent(line):
        first = int(line[2] * (rows - 1) + 0.5)
        return first, min(first + int(line[4]) - 1, rows - 1)

    def close(a, b):
        (a_first, a_last), (b_first, b_last) = extent(a), extent(b)
        shared = range(max(a_first, b_first), min(a_last, b_last) + 1)
        return len(shared) > 0 and np.mean([abs(a[5 + r] - b[5 + r]) for r in shared]) < threshold

    kept, parent, left = [], [0] * len(lines), list(np.argsort(-scores))
    order = list(left)
    for i in order:
        if i not in left or len(kept) == top_k:
            continue
        kept.append(int(i))
        for j in order[order.index(i) + 1 :]:
            if close(lines[i], lines[j]):
                parent[j] = len(kept)
                if j in left:
                    left.remove(j)
        parent[i] = len(kept)
    return kept, parent


@needs_line_nms
@pytest.mark.parametrize('rows', [72, 10])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_line_nms(rows, dtype, device):
    """Compiled operators take 72 rows only."""
    for seed, top_k in itertools.product(range(3), (4, 100)):
        lines, scores = random_lines(40, rows, seed)
        expected, parent = plain_line_nms(lines, scores, 25, top_k)
        assert (top_k == 4 and len(expected) == 4) or 4 < len(expected) < 35
        keep, number, found = line_nms(
            torch.tensor(lines, dtype=dtype, device=device),
            torch.tensor(scores, device=device),
            overlap=25,
            top_k=top_k,
        )
        assert keep.shape == found.shape == (40,) and number.shape == ()
        assert keep[:number].tolist() == expected  # as CLRNet's head does
        assert not keep[number:].any() and found.tolist() == parent
        assert keep.dtype == number.dtype == found.dtype == torch.int64
        assert keep.device.type == number.device.type == found.device.type == device


@needs_line_nms
def test_line_nms_at_the_threshold_and_of_lines_without_rows():
    lines = torch.zeros(4, 5 + 9)
    lines[:, 4] = torch.tensor([9, 9, 0.9, -3])  # rows
    lines[1, 5:] = 10
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert line_nms(lines, scores, 10, 9)[0].tolist() == [0, 1, 2, 3]
    assert line_nms(lines, scores, -1, 9)[0].tolist() == [0, 1, 2, 3]
    keep, number, parent = line_nms(lines, scores, 10.01, 9)
    assert keep.tolist() == [0, 2, 3, 0] and number == 3 and parent.tolist() == [1, 1, 2, 3]
    lines[:, 2] = -0.5  # begins below the image
    assert line_nms(lines, scores, 10.01, 9)[0].tolist() == [0, 1, 2, 3]


@needs_line_nms
@pytest.mark.parametrize('dtype', HALF)
def test_line_nms_in_low_precision_and_of_nothing(dtype, device):
    lines, scores = torch.zeros(2, 77), torch.tensor([0.9, 0.8], device=device)
    lines[:, 4] = 72
    lines[1, 5:] = 1
    lines[1, 40] += 2**-5  # 72 + 2^-5 in all, which the types round to 72
    low = lines.to(device, dtype)
    assert line_nms(low, scores, 1 + 2**-12, 9)[1] == 2
    assert line_nms(low, scores, 1 + 2**-11, 9)[1] == 1
    keep, number, parent = line_nms(low[:0], scores[:0], 25, 100)
    assert keep.shape == parent.shape == (0,) and number == 0
