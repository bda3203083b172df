"""Pooling of RoIs, deformed, rotated and of maxima, through `mmcv.ops`, against plain loops."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tests.helpers.operators import HALF, check_half, mmcv_ops, random


def sample(grid, y, x):
    """Bilinear, of C H W; within a cell outside the border's value, 0 further out."""
    height, width = grid.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = np.zeros(len(grid))
    for i in range(height):
        for j in range(width):
            total += grid[:, i, j] * max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
    return total


def plain_pool(grid, size, ratio, height, width, place):
    """`place(i, j, down, across)`: y, x for bin i, j and distances from the RoI's upper left."""
    out = np.zeros((len(grid), *size))
    n, m = (ratio or max(int(np.ceil(t / s)), 0) for t, s in zip((height, width), size))
    for i, j, u, v in np.ndindex(*size, n, m):
        down = (i + (u + 0.5) / n) * height / size[0]
        across = (j + (v + 0.5) / m) * width / size[1]
        out[:, i, j] += sample(grid, *place(i, j, down, across)) / (n * m)
    return out


# [image, x1, y1, x2, y2]: inside, large, tiny, across three borders, outside, empty, reversed
CORNERS = [
    [0, 1.3, 2.1, 9.7, 8.2],
    [1, 0, 0, 11, 9],
    [0, 4.2, 3.3, 4.6, 3.5],
    [1, -3.5, -3.2, 5.1, 4.4],
    [0, 8.4, 6.1, 19.7, 12.3],
    [1, 40, 40, 50, 50],
    [0, 5, 5, 5, 5],
    [0, 6, 6, 3, 2],
]


def plain_deform_roi_pool(x, rois, offset, size, scale, ratio, gamma):
    x, rois = x.detach().cpu().numpy(), rois.cpu().numpy()
    offset = np.zeros((len(rois), 2, *size)) if offset is None else offset.detach().cpu().numpy()
    out = np.zeros((len(rois), x.shape[1], *size))
    for r, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - 0.5 for c in corners)
        height, width = y2 - y1, x2 - x1

        def place(i, j, down, across, r=r, x1=x1, y1=y1, height=height, width=width):
            dx, dy = offset[r, :, i, j]
            return y1 + down + gamma * height * dy, x1 + across + gamma * width * dx

        out[r] = plain_pool(x[int(image)], size, ratio, height, width, place)
    return out


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('size,scale', [((2, 2), 1.0), ((3, 4), 0.5)])
@pytest.mark.parametrize('moved', [True, False])
def test_deformable_roi_pool(ratio, size, scale, moved, device):
    x, rois = random(2, 3, 9, 11, device=device), torch.tensor(CORNERS, device=device).double()
    rois[:, 1:] /= scale
    offset = random(len(rois), 2, *size, seed=1, device=device) if moved else None
    out = mmcv_ops.deform_roi_pool(x, rois, offset, size, scale, ratio, 0.2)
    expected = plain_deform_roi_pool(x, rois, offset, size, scale, ratio, 0.2)
    np.testing.assert_allclose(out.detach().cpu(), expected, atol=1e-12)
    assert (np.abs(expected).sum((1, 2, 3)) > 0).sum() >= 5


def test_deformable_roi_pool_without_offset_is_roi_align(device):
    """torchvision's, aligned. Reversed RoIs differ there."""
    x, rois = random(2, 3, 9, 11, device=device), torch.tensor(CORNERS[:7], device=device).double()
    out = mmcv_ops.deform_roi_pool(x, rois, None, (3, 2), 0.7, 0)
    torch.testing.assert_close(out, mmcv_ops.roi_align(x, rois, (3, 2), 0.7, 0, 'avg', True))


# Of mmcv's test_deform_roi_pool.py, test_roi_align_rotated.py: map, RoI's corners, result and the
# gradient of its sum, with two samples per bin and axis.
FOUR = [[1.0, 2], [3, 4]]
SIXTEEN = [[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]
SLOPE = np.outer([0.6875, 0.625, 0.625, 0.0625], [0.6875, 0.625, 0.625, 0.0625])
MMCV_POOLED = [
    ([FOUR], 1, [[[1, 1.25], [1.5, 1.75]]], np.outer([1.75, 0.25], [1.75, 0.25])),
    (
        [FOUR, [[4.0, 3], [2, 1]]],
        1,
        [[[1, 1.25], [1.5, 1.75]], [[4, 3.75], [3.5, 3.25]]],
        np.outer([1.75, 0.25], [1.75, 0.25]),
    ),
    ([SIXTEEN], 3, [[[1.9375, 4.75], [7.5625, 10.375]]], SLOPE),
]


@pytest.mark.parametrize('grid,end,expected,slope', MMCV_POOLED)
def test_pooling_of_mmcvs_tests(grid, end, expected, slope, device):
    x = torch.tensor([grid], device=device, requires_grad=True)
    corners = torch.tensor([[0.0, 0, 0, end, end]], device=device)
    rotated = torch.tensor([[0, end / 2, end / 2, end, end, 0]], device=device)
    for out in (
        mmcv_ops.deform_roi_pool(x, corners, None, (2, 2), 1.0, 2),
        mmcv_ops.roi_align_rotated(x, rotated, (2, 2), 1.0, 2),
    ):
        np.testing.assert_allclose(out[0].detach().cpu(), expected, rtol=1e-5)
        (grad,) = torch.autograd.grad(out.sum(), x)
        np.testing.assert_allclose(grad[0].cpu(), [slope] * len(grid), rtol=1e-5)


@pytest.mark.parametrize(
    'grid,end,expected',
    [(FOUR, 1, [[1.5, 1], [1.75, 1.25]]), (SIXTEEN, 3, [[7.5625, 1.9375], [10.375, 4.75]])],
)
def test_a_quarter_turn_of_mmcvs_tests(grid, end, expected):
    x = torch.tensor([[grid]])
    roi = torch.tensor([[0, end / 2, end / 2, end, end, np.pi / 2]], dtype=torch.float32)
    out = mmcv_ops.roi_align_rotated(x, roi, (2, 2), 1.0, 2, True)
    np.testing.assert_allclose(out[0, 0], expected, rtol=1e-5)
    roi[:, 5] *= -1
    other = mmcv_ops.roi_align_rotated(x, roi, (2, 2), 1.0, 2, True, True)
    torch.testing.assert_close(other, out)


@pytest.mark.parametrize('ratio', [0, 2])
def test_gradient_of_deformable_roi_pool(ratio, device):
    x, rois = random(2, 2, 9, 11, device=device), torch.tensor(CORNERS, device=device).double()
    offset = random(len(rois), 2, 2, 3, seed=1, device=device)
    assert gradcheck(
        lambda *t: mmcv_ops.deform_roi_pool(*t, (2, 3), 1.0, ratio, 0.2), (x, rois, offset)
    )
    plain = lambda x: mmcv_ops.deform_roi_pool(x, rois, None, (2, 3), 1.0, ratio)  # noqa: E731
    assert gradcheck(plain, x)


@pytest.mark.parametrize('dtype', HALF)
def test_deformable_roi_pool_in_low_precision(dtype, device):
    x, rois = random(2, 2, 9, 11, device=device), torch.tensor(CORNERS, device=device)
    offset = random(len(rois), 2, 2, 3, seed=1, device=device)
    check_half(
        lambda x, o: mmcv_ops.deform_roi_pool(x, rois, o, (2, 3), 1.0, 2, 0.2),
        x,
        offset,
        dtype=dtype,
    )


def test_offsets_that_are_not_finite_sample_nothing(device):
    x, rois = random(2, 2, 9, 11, device=device), torch.tensor(CORNERS[:2], device=device).double()
    offset = torch.zeros(2, 2, 2, 2, dtype=torch.float64, device=device)
    offset[0, 0, 0, 1], offset[1, 1, 1, 0], offset[1, 0, 0, 0] = torch.nan, torch.inf, -1e30
    offset.requires_grad_()
    out = mmcv_ops.deform_roi_pool(x, rois, offset, (2, 2), 1.0, 2)
    assert ((out == 0).all(1).cpu() == torch.tensor([[[0, 1], [0, 0]], [[1, 0], [1, 0]]])).all()
    out.square().sum().backward()
    assert x.grad.isfinite().all() and offset.grad.isfinite().all() and offset.grad.any()


@pytest.mark.parametrize('pack', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
def test_deformable_roi_pool_packs(pack, device):
    """Their offsets begin as zeros, the factors of the second as a half."""
    x, rois = torch.rand(2, 3, 9, 11, device=device), torch.tensor(CORNERS[:4], device=device)
    pool = getattr(mmcv_ops, pack)((2, 2), 3, 16, sampling_ratio=2).to(device)
    out = pool(x.requires_grad_(), rois)
    plain = mmcv_ops.deform_roi_pool(x, rois, None, (2, 2), 1.0, 2)
    torch.testing.assert_close(out, plain if pack[0] == 'D' else plain / 2)
    out.sum().backward()
    assert pool.offset_fc[-1].weight.grad.any()


# [image, centre x, y, width, height, angle]: as CORNERS, without reversed ones
ROTATED = [
    [0, 5.5, 5.2, 8.4, 6.1, 0.4],
    [1, 5.5, 4.5, 11, 9, -0.7],
    [0, 4.4, 3.4, 0.4, 0.2, 3.0],
    [1, 0.8, 0.6, 8.6, 7.6, 1.2],
    [0, 9.5, 9.2, 11.3, 6.2, -2.8],
    [1, 45, 45, 10, 10, 0.3],
    [0, 5, 5, 0, 0, 0.3],
]


def plain_roi_align_rotated(x, rois, size, scale, ratio, aligned, clockwise):
    x, rois = x.detach().cpu().numpy(), rois.cpu().numpy()
    out = np.zeros((len(rois), x.shape[1], *size))
    for r, (image, *box, angle) in enumerate(rois):
        centre, sides = np.array(box[:2]) * scale, np.array(box[2:]) * scale
        centre, sides = (centre - 0.5, sides) if aligned else (centre, np.maximum(sides, 1))
        turned = angle if clockwise else -angle
        # columns: where the box's own x and y axes point on the map, y downwards
        turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])

        def place(i, j, down, across, centre=centre, sides=sides, turn=turn):
            at = centre + turn @ (np.array([across, down]) - sides / 2)
            return at[1], at[0]

        out[r] = plain_pool(x[int(image)], size, ratio, sides[1], sides[0], place)
    return out


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('size,scale', [((2, 2), 1.0), ((3, 4), 0.5)])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('clockwise', [True, False])
def test_roi_align_rotated(ratio, size, scale, aligned, clockwise, device):
    x, rois = random(2, 3, 9, 11, device=device), torch.tensor(ROTATED, device=device).double()
    rois[:, 1:5] /= scale
    out = mmcv_ops.roi_align_rotated(x, rois, size, scale, ratio, aligned, clockwise)
    expected = plain_roi_align_rotated(x, rois, size, scale, ratio, aligned, clockwise)
    np.testing.assert_allclose(out.detach().cpu(), expected, atol=1e-12)
    assert (np.abs(expected).sum((1, 2, 3)) > 0).sum() >= 5


@pytest.mark.parametrize('ratio,aligned,clockwise', [(0, True, False), (2, False, True)])
def test_gradient_of_roi_align_rotated(ratio, aligned, clockwise, device):
    x, rois = random(2, 2, 9, 11, device=device), torch.tensor(ROTATED, device=device).double()

    def pool(x):
        return mmcv_ops.roi_align_rotated(x, rois, (2, 3), 1.0, ratio, aligned, clockwise)

    assert gradcheck(pool, x)


@pytest.mark.parametrize('dtype', HALF)
def test_roi_align_rotated_in_low_precision(dtype, device):
    x, rois = random(2, 2, 9, 11, device=device), torch.tensor(ROTATED, device=device)
    check_half(lambda x: mmcv_ops.roi_align_rotated(x, rois, 3, 1.0, 2), x, dtype=dtype)


def test_rotated_rois_of_negative_size_raise():
    x, rois = random(1, 2, 9, 11), torch.tensor([[0, 5, 5, -2, 3, 0.1]])
    with pytest.raises(RuntimeError, match='negative width or height'):
        mmcv_ops.roi_align_rotated(x, rois, 2, 1.0)
    mmcv_ops.roi_align_rotated(x, rois, 2, 1.0, 0, False)  # there it is made a cell wide


@pytest.mark.parametrize('ratio', [0, 2])
def test_pooling_of_no_roi(ratio, device):
    x = random(2, 3, 9, 11, device=device)
    for out in (
        mmcv_ops.deform_roi_pool(x, x.new_zeros(0, 5), None, (2, 4), 1.0, ratio),
        mmcv_ops.deform_roi_pool(x, x.new_zeros(0, 5), x.new_zeros(0, 2, 2, 4), (2, 4), 1.0, ratio),
        mmcv_ops.roi_align_rotated(x, x.new_zeros(0, 6), (2, 4), 1.0, ratio),
    ):
        assert out.shape == (0, 3, 2, 4)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(grad, torch.zeros_like(x))


def test_roi_pool():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 2, 1, 17, 13], [1, 0, 0, 21, 17], [1, 4, 4, 9, 9.0]]).double()
    pooled = mmcv_ops.roi_pool(x, rois, (2, 3), 0.5)
    expected = torch.zeros(3, 3, 2, 3).double()
    for r, (b, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (int(np.floor(c * 0.5 + 0.5)) for c in box)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(2):
            for j in range(3):
                rows = slice(y1 + i * height // 2, min(y1 - (-(i + 1) * height // 2), 9))
                columns = slice(x1 + j * width // 3, min(x1 - (-(j + 1) * width // 3), 11))
                expected[r, :, i, j] = x[int(b), :, rows, columns].amax((1, 2))
    torch.testing.assert_close(pooled, expected)
    assert torch.autograd.gradcheck(lambda x: mmcv_ops.roi_pool(x, rois, (2, 3), 0.5), x)
