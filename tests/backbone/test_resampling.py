"""CARAFE, masked convolution and PSANet's attention, through `mmcv.ops`, against plain loops."""

import importlib
import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from backbone.openmmlab import resampling
from tests.helpers.operators import HALF, TYPES, check_half, mmcv_ops, random

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
