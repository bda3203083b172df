"""The stand-in's operators that mmdet's and mmseg's other models use, through `mmcv.ops`.

Expected values are those of plain loops in NumPy, written from the papers, or are cited from
mmcv's own tests (tests/test_ops/ of open-mmlab/mmcv).
"""

import importlib
import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from backbone.openmmlab import ops, resampling

ops.install()
mmcv_ops = importlib.import_module('mmcv.ops')

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
HALF = TYPES[2:]


def random(*shape, seed=0, device='cpu', grad=True):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(device).requires_grad_(grad)


def check_half(operator, *inputs, dtype, cotangent=None):
    """Result and gradients have the inputs' type and are those of float32, rounded once."""
    results = []
    for kind in (dtype, torch.float32):
        leaves = [x.detach().to(dtype).to(kind).requires_grad_() for x in inputs]
        result = operator(*leaves)
        weight = torch.ones_like(result) if cotangent is None else cotangent.to(result)
        results.append([result, *torch.autograd.grad(result, leaves, weight)])
    for low, wide in zip(*results):
        assert low.dtype == dtype
        torch.testing.assert_close(low, wide.to(dtype), rtol=0, atol=0)
        assert low.abs().sum() > 0


# --- CARAFE


def plain_carafe(x, masks, size, groups, scale):
    x, masks = x.detach().cpu().numpy(), masks.detach().cpu().numpy()
    b, c, h, w = x.shape
    out = np.zeros((b, c, h * scale, w * scale))
    for n, k, i, j in np.ndindex(out.shape):
        group = k * groups // c
        for u, v in np.ndindex(size, size):
            row, column = i // scale + u - size // 2, j // scale + v - size // 2
            if 0 <= row < h and 0 <= column < w:
                weight = masks[n, (group * size + u) * size + v, i, j]
                out[n, k, i, j] += weight * x[n, k, row, column]
    return out


@pytest.mark.parametrize('size,groups,scale', [(3, 2, 2), (5, 1, 3), (1, 4, 1), (3, 4, 4)])
def test_carafe(size, groups, scale, device):
    x = random(2, 4, 3, 4, device=device)
    masks = random(2, groups * size**2, 3 * scale, 4 * scale, seed=1, device=device)
    expected = plain_carafe(x, masks, size, groups, scale)
    for operator in (mmcv_ops.carafe, mmcv_ops.carafe_naive):
        result = operator(x, masks, size, groups, scale)
        np.testing.assert_allclose(result.detach().cpu(), expected, atol=1e-12)


@pytest.mark.parametrize('size,groups,scale', [(3, 2, 2), (5, 1, 3), (1, 2, 1)])
def test_gradient_of_carafe(size, groups, scale, device):
    x = random(1, 2, 2, 3, device=device)
    masks = random(1, groups * size**2, 2 * scale, 3 * scale, seed=1, device=device)
    assert gradcheck(lambda *t: mmcv_ops.carafe(*t, size, groups, scale), (x, masks))


def test_gradient_of_carafe_naive(device):
    """Called directly: mmcv's backward function insists on CUDA."""
    x, masks = random(2, 4, 3, 4, device=device), random(2, 18, 6, 8, seed=1, device=device)
    cotangent = random(2, 4, 6, 8, seed=2, device=device, grad=False)
    out = mmcv_ops.carafe(x, masks, 3, 2, 2)
    expected = torch.autograd.grad(out, (x, masks), cotangent)
    found = [torch.full_like(t, torch.nan) for t in (x, masks)]
    ext = importlib.import_module('mmcv._ext')
    ext.carafe_naive_backward(
        cotangent, x, masks, *found, kernel_size=3, group_size=2, scale_factor=2
    )
    for t, e in zip(found, expected):
        torch.testing.assert_close(t.detach(), e)


@pytest.mark.parametrize('dtype', HALF)
def test_carafe_in_low_precision_and_channels_last(dtype, device):
    x, masks = random(2, 4, 3, 4, device=device), random(2, 18, 6, 8, seed=1, device=device)
    check_half(lambda *t: mmcv_ops.carafe(*t, 3, 2, 2), x, masks, dtype=dtype)
    last = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, masks)]
    torch.testing.assert_close(
        mmcv_ops.carafe(*last, 3, 2, 2), mmcv_ops.carafe(x, masks, 3, 2, 2), rtol=0, atol=0
    )


def test_carafe_of_no_image(device):
    x, masks = random(0, 4, 3, 4, device=device), random(0, 18, 6, 8, device=device)
    out = mmcv_ops.carafe(x, masks, 3, 2, 2)
    assert out.shape == (0, 4, 6, 8)
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


def test_carafe_pack_keeps_a_constant_map(device):
    """Its weights sum to 1; beyond the border is 0."""
    pack = mmcv_ops.CARAFEPack(8, 2, up_kernel=3, compressed_channels=4).to(device)
    out = pack(torch.full((1, 8, 5, 6), 3.0, device=device))
    assert out.shape == (1, 8, 10, 12)
    torch.testing.assert_close(out[:, :, 2:-2, 2:-2], torch.full((1, 8, 6, 8), 3.0, device=device))
    assert (out[:, :, 0] < 2.9).all()  # a third of the neighbours is outside


# --- masked convolution


@pytest.mark.filterwarnings('ignore:This overload of addmm is deprecated:UserWarning')
@pytest.mark.parametrize('kernel,padding', [((3, 3), 1), ((1, 5), (0, 2)), ((3, 1), (3, 1))])
@pytest.mark.parametrize('dtype', TYPES)
def test_masked_convolution(kernel, padding, dtype, device):
    """What a convolution gives at the places of the mask, zeros elsewhere."""
    x = random(1, 3, 6, 7, device=device, grad=False).to(dtype)
    weight = random(4, 3, *kernel, seed=1, device=device, grad=False).to(dtype)
    bias = random(4, seed=2, device=device, grad=False).to(dtype)
    mask = random(1, 6, 7, seed=3, device=device, grad=False)
    full = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    expected = torch.zeros_like(full)
    for i, j in itertools.product(range(6), range(7)):
        if mask[0, i, j] > 0:
            expected[..., i, j] = full[..., i, j]
    out = mmcv_ops.masked_conv2d(x, mask, weight, bias, padding)
    assert out.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps  # of the matrix product, PyTorch's
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    assert 5 < (out != 0).sum() / 4 < 40


@pytest.mark.filterwarnings('ignore:This overload of addmm is deprecated:UserWarning')
def test_masked_convolution_of_nothing_and_beyond_the_map():
    x, weight, bias = random(1, 2, 5, 5), random(3, 2, 3, 3), random(3)
    out = mmcv_ops.masked_conv2d(x, torch.zeros(1, 5, 5), weight, bias, 1)
    assert out.shape == (1, 3, 5, 5) and not out.any()
    mask = torch.zeros(1, 5, 5)
    mask[0, 4, 2] = 1  # without padding the result has three rows
    with pytest.raises(IndexError):
        mmcv_ops.masked_conv2d(x, mask, weight, bias, 0)


def test_columns_beyond_the_map_are_zero():
    """Also where the window is larger than map and padding."""
    columns = torch.full((12, 1), torch.nan)
    place = torch.tensor([1])
    resampling.masked_im2col_forward(
        torch.arange(1.0, 5).view(1, 1, 2, 2), place, place, columns, 4, 3, 1, 0
    )
    assert columns.view(4, 3).tolist() == [[2, 0, 0], [4, 0, 0], [0, 0, 0], [0, 0, 0]]


# --- PSANet


def plain_psa(x, size, distribute):
    """At place i, channel u, v is the attention between it and the place u, v - half away."""
    x = x.detach().cpu().numpy()
    b, _, h, w = x.shape
    attention = np.zeros((b, h, w, h, w))  # of i, of j
    for n, i, j, u, v in np.ndindex(b, h, w, *size):
        row, column = i + u - (size[0] - 1) // 2, j + v - (size[1] - 1) // 2
        if 0 <= row < h and 0 <= column < w:
            attention[n, i, j, row, column] = x[n, u * size[1] + v, i, j]
    attention = attention.reshape(b, h * w, h * w)
    # channels: the place looked at (collect) or the one that looks (distribute)
    return (attention if distribute else attention.transpose(0, 2, 1)).reshape(b, h * w, h, w)


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size', [(4, 4), (3, 5), (9, 7), (1, 2)])
@pytest.mark.parametrize('dtype', TYPES)
def test_psa_mask(kind, size, dtype, device):
    x = random(2, size[0] * size[1], 4, 3, device=device).to(dtype)
    out = mmcv_ops.PSAMask(kind, size)(x)
    assert out.dtype == dtype
    expected = plain_psa(x.double(), size, kind == 'distribute')
    np.testing.assert_array_equal(out.detach().cpu().double(), expected)
    assert out.any()


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size', [(4, 4), (3, 5), (7, 5)])
def test_gradient_of_psa_mask(kind, size, device):
    x = random(2, size[0] * size[1], 4, 3, device=device)
    assert gradcheck(mmcv_ops.PSAMask(kind, size), x)


def test_psa_mask_of_no_image(device):
    x = random(0, 9, 4, 3, device=device)
    out = mmcv_ops.PSAMask('collect', (3, 3))(x)
    assert out.shape == (0, 12, 4, 3)
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


# --- RoIs: plain loops over bins and samples


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


# --- NMS with groups


def iou(a, b):
    sides = (np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])).clip(0)
    areas = [(x[2:4] - x[:2]).prod() for x in (a, b)]
    return sides.prod() / (sum(areas) - sides.prod())


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


# --- softmax focal loss

# of mmcv's test_focal_loss.py, gamma 2 and alpha 0.25: logits, labels, mean loss, gradient
MMCV_FOCAL = [
    (
        [[1.0, 0], [0, 1]],
        [0, 1],
        0.00566451,
        [[-0.00657264, 0.00657264], [0.00657264, -0.00657264]],
    ),
    (
        [[1.0, 0, -1], [0, 1, 2]],
        [2, 1],
        0.34956908,
        [[0.10165970, 0.03739851, -0.13905823], [0.01227554, -0.10298023, 0.09070466]],
    ),
    (
        [[1e-6, 2e-6, 3e-6], [4e-6, 5e-5, 6e-4], [7e-3, 8e-2, 9e-1]],
        [1, 2, 0],
        0.15754992,
        [
            [0.02590877, -0.05181759, 0.02590882],
            [0.02589641, 0.02589760, -0.05179400],
            [-0.07307514, 0.02234372, 0.05073142],
        ],
    ),
]


@pytest.mark.parametrize('logits,labels,expected,slope', MMCV_FOCAL)
def test_softmax_focal_loss_of_mmcvs_tests(logits, labels, expected, slope, device):
    x = torch.tensor(logits, device=device, requires_grad=True)
    loss = mmcv_ops.softmax_focal_loss(x, torch.tensor(labels, device=device), 2.0, 0.25)
    torch.testing.assert_close(loss.item(), expected, rtol=1e-5, atol=0)
    loss.backward()
    np.testing.assert_allclose(x.grad.cpu(), slope, rtol=2e-5)


def logits_and_labels(device):
    """The last label of a row is -1: no loss."""
    return random(12, 5, device=device), torch.arange(12, device=device) % 6 - 1


def plain_softmax_focal(x, labels, gamma, alpha, weight):
    losses = np.zeros(len(x))
    for i, (row, label) in enumerate(zip(x.detach().cpu().numpy(), labels.tolist())):
        if label >= 0:
            p = np.exp(row[label]) / np.exp(row).sum()
            losses[i] = -alpha * (1 - p) ** gamma * np.log(p)
            losses[i] *= 1 if weight is None else weight[label].item()
    return losses


@pytest.mark.parametrize('gamma,alpha', [(2.0, 0.25), (0.0, 0.5), (0.5, 0.8)])
@pytest.mark.parametrize('weighted', [True, False])
def test_softmax_focal_loss(gamma, alpha, weighted, device):
    x, labels = logits_and_labels(device)
    weight = torch.tensor([0.5, 2, 0, 3, 1.5], device=device).double() if weighted else None
    expected = plain_softmax_focal(x, labels, gamma, alpha, weight)
    for reduction, value in (
        ('none', expected),
        ('sum', expected.sum()),
        ('mean', expected.sum() / 12),
    ):
        loss = mmcv_ops.softmax_focal_loss(x, labels, gamma, alpha, weight, reduction)
        np.testing.assert_allclose(loss.detach().cpu(), value, rtol=1e-10, atol=1e-14)
        if reduction != 'none':  # mmcv multiplies (N, C) by (N,) there
            assert gradcheck(
                lambda x, r=reduction: mmcv_ops.softmax_focal_loss(
                    x, labels, gamma, alpha, weight, r
                ),
                x,
            )


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('dtype', TYPES)
def test_softmax_focal_loss_of_extreme_logits(gamma, dtype, device):
    """A probability of 1 has no loss, one of 0 that of the smallest float32."""
    x = torch.tensor([[200.0, 0], [200, 0]], device=device, dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 1], device=device)
    loss = mmcv_ops.softmax_focal_loss(x, labels, gamma, 0.5, None, 'none')
    torch.testing.assert_close(loss, torch.tensor([0, 0.5 * 87.33654]).to(loss))
    total = mmcv_ops.softmax_focal_loss(x, labels, gamma, 0.5, None, 'sum')
    (grad,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(grad, torch.tensor([[0, 0], [0.5, -0.5]]).to(grad))


@pytest.mark.parametrize('dtype', HALF)
def test_softmax_focal_loss_in_low_precision(dtype, device):
    """The operator computes in float32, from the softmax that mmcv has rounded."""
    ext = importlib.import_module('mmcv._ext')
    x, labels = logits_and_labels(device)
    p = x.detach().softmax(1).to(dtype)
    weight = torch.tensor([0.5, 2, 0, 3, 1.5], device=device)
    results = []
    for kind in (dtype, torch.float32):
        found = [p.new_zeros(12, dtype=kind), p.new_zeros(12, 5, dtype=kind)]
        ext.softmax_focal_loss_forward(p.to(kind), labels, weight, found[0], gamma=2.0, alpha=0.25)
        buffer = torch.zeros_like(found[0])
        ext.softmax_focal_loss_backward(
            p.to(kind), labels, weight, buffer, found[1], gamma=2.0, alpha=0.25
        )
        results.append([*found, buffer])
    for low, wide in zip(*results):
        torch.testing.assert_close(low, wide.to(dtype), rtol=0, atol=0)
        assert low.any()


def test_softmax_focal_loss_of_nothing_and_of_wrong_labels(device):
    x = torch.zeros(0, 5, device=device, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64, device=device)
    loss = mmcv_ops.softmax_focal_loss(x, labels, 2.0, 0.25, None, 'sum')
    assert loss == 0
    assert torch.autograd.grad(loss, x)[0].shape == (0, 5)
    with pytest.raises(RuntimeError, match='out of bounds'):
        mmcv_ops.softmax_focal_loss(torch.zeros(1, 5), torch.tensor([5]))
