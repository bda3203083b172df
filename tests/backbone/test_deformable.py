"""Deformable convolution and attention, through `mmcv.ops`, against plain loops."""

import numpy as np
import pytest
import torch

from tests.helpers.operators import mmcv_ops


def bilinear(grid, y, x):
    """Of C H W at a place in cells; beyond the edge all is 0, and where there is no place."""
    total = np.zeros(len(grid))
    if not np.isfinite([y, x]).all():
        return total
    for i in (int(np.floor(y)), int(np.floor(y)) + 1):
        for j in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= i < grid.shape[1] and 0 <= j < grid.shape[2]:
                total += grid[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


STRIDE, PADDING, DILATION, GROUPS, DEFORMED = (2, 1), (1, 2), (1, 2), 2, 2


def convolution():
    """Input, offset, mask, weight, bias of a convolution that is different in both directions."""
    torch.manual_seed(0)
    shapes = [
        (2, 4, 5, 6),
        (2, 2 * DEFORMED * 6, 3, 6),
        (2, DEFORMED * 6, 3, 6),
        (6, 2, 2, 3),
        (6,),
    ]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def plain_convolution(x, offset, mask, weight, bias):
    x, offset, mask, weight, bias = (t.detach().numpy() for t in (x, offset, mask, weight, bias))
    rows, columns = offset.shape[2:]
    out = np.zeros((2, 6, rows, columns)) + bias[:, None, None]
    for b, i, j, k, l in np.ndindex(2, rows, columns, 2, 3):  # noqa: E741
        for d in range(DEFORMED):
            tap = d * 6 + k * 3 + l
            y = i * STRIDE[0] - PADDING[0] + k * DILATION[0] + offset[b, 2 * tap, i, j]
            z = j * STRIDE[1] - PADDING[1] + l * DILATION[1] + offset[b, 2 * tap + 1, i, j]
            # of four channels two belong to each deformable group, here also to each group
            seen = bilinear(x[b, 2 * d : 2 * d + 2], y, z) * mask[b, tap, i, j]
            out[b, 3 * d : 3 * d + 3, i, j] += weight[3 * d : 3 * d + 3, :, k, l] @ seen
    return out


def test_modulated_deformable_convolution():
    inputs = convolution()

    def convolve(x, offset, mask, weight, bias):
        return mmcv_ops.modulated_deform_conv2d(
            x, offset, mask, weight, bias, STRIDE, PADDING, DILATION, GROUPS, DEFORMED
        )

    np.testing.assert_allclose(convolve(*inputs).detach(), plain_convolution(*inputs), atol=1e-10)
    assert torch.autograd.gradcheck(convolve, inputs)


def test_deformable_convolution():
    x, offset, mask, weight, bias = convolution()

    def convolve(x, offset, weight):
        return mmcv_ops.deform_conv2d(
            x, offset, weight, STRIDE, PADDING, DILATION, GROUPS, DEFORMED
        )

    expected = plain_convolution(x, offset, torch.ones_like(mask), weight, torch.zeros_like(bias))
    np.testing.assert_allclose(convolve(x, offset, weight).detach(), expected, atol=1e-10)
    assert torch.autograd.gradcheck(convolve, (x, offset, weight))


@pytest.mark.parametrize('modulated', [True, False])
def test_offsets_that_are_not_finite_sample_nothing(modulated):
    """As mmcv's kernels; torchvision's, called directly, ends the process at a NaN."""
    x, offset, mask, weight, bias = convolution()
    strange = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30]
    with torch.no_grad():
        for i, value in enumerate(strange * 3):
            offset[i % 2, 3 * i % 24, i % 3, 2 * i % 6] = value
    if not modulated:
        mask, bias = torch.ones_like(mask), torch.zeros_like(bias)
        result = mmcv_ops.deform_conv2d(
            x, offset, weight, STRIDE, PADDING, DILATION, GROUPS, DEFORMED
        )
    else:
        result = mmcv_ops.modulated_deform_conv2d(
            x, offset, mask, weight, bias, STRIDE, PADDING, DILATION, GROUPS, DEFORMED
        )
    np.testing.assert_allclose(
        result.detach(), plain_convolution(x, offset, mask, weight, bias), atol=1e-10
    )
    result.square().sum().backward()
    assert not offset.grad[~offset.isfinite()].any()
    assert all(t.grad.isfinite().all() for t in (x, offset, weight))
    assert offset.grad.any()


def test_offsets_on_the_border_have_no_gradient():
    """Exactly at −1 or at the map's size, as many samples of a zero-initialised layer are."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 4, 5), torch.randn(3, 2, 3, 3)
    offset, mask = torch.zeros(1, 18, 4, 5, requires_grad=True), torch.ones(1, 9, 4, 5)
    mmcv_ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1).sum().backward()
    rows, columns = (
        np.arange(n)[:, None] + np.arange(-1, 2) for n in (4, 5)
    )  # position by output and tap
    inside = ((rows > -1) & (rows < 4)).T[:, None, :, None] & (
        ((columns > -1) & (columns < 5)).T[None, :, None]
    )  # kh kw H W
    moved = offset.grad.view(3, 3, 2, 4, 5).abs().sum(2) > 0
    assert moved.numpy().tolist() == inside.tolist()


def test_first_values_of_a_larger_offset_map():
    """DyHead passes the offsets of the finer level to a convolution of stride 2."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 6, 8), torch.randn(5, 4, 3, 3), torch.randn(5)
    offset = torch.randn(2, 18, 6, 8, requires_grad=True)
    mask = torch.rand(2, 9, 6, 8, requires_grad=True)
    first = [
        m.detach().reshape(2, -1)[:, : n * 12].reshape(2, n, 3, 4)
        for m, n in ((offset, 18), (mask, 9))
    ]
    expected = [t.requires_grad_() for t in first]
    results = [
        mmcv_ops.modulated_deform_conv2d(x, o, m, weight, bias, 2, 1)
        for o, m in ((offset, mask), expected)
    ]
    assert torch.equal(*results)
    for result in results:
        result.square().sum().backward()
    for large, small in zip((offset, mask), expected):
        count = small[0].numel()
        assert torch.equal(large.grad.flatten(1)[:, :count], small.grad.flatten(1))
        assert not large.grad.flatten(1)[:, count:].any()
    with pytest.raises(RuntimeError, match='smaller than the 18 × 6 × 8 values'):
        mmcv_ops.modulated_deform_conv2d(x, expected[0], expected[1], weight, bias, 1, 1)


def test_deformable_attention():
    torch.manual_seed(0)
    sizes = torch.tensor([[4, 5], [2, 3]])
    starts = torch.tensor([0, 20])
    value = torch.randn(2, 26, 2, 3, dtype=torch.float64, requires_grad=True)
    places = (torch.rand(2, 4, 2, 2, 3, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()
    weights = torch.rand(2, 4, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    def attend(value, places, weights):
        return mmcv_ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply(
            value, sizes, starts, places, weights, 64
        )

    expected = np.zeros((2, 4, 2, 3))
    for b, q, h, level, p in np.ndindex(2, 4, 2, 2, 3):
        height, width = sizes[level].tolist()
        grid = value[b, starts[level] : starts[level] + height * width, h].detach().numpy()
        x, y = places[b, q, h, level, p].tolist()
        expected[b, q, h] += weights[b, q, h, level, p].item() * bilinear(
            grid.T.reshape(3, height, width), y * height - 0.5, x * width - 0.5
        )
    attended = attend(value, places, weights)
    np.testing.assert_allclose(attended.detach(), expected.reshape(2, 4, 6), atol=1e-10)
    assert torch.autograd.gradcheck(attend, (value, places, weights))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_come_out_as_they_went_in(dtype):
    x, offset, mask, weight, bias = (t.detach().to(dtype) for t in convolution())
    output = mmcv_ops.modulated_deform_conv2d(
        x, offset, mask, weight, bias, STRIDE, PADDING, DILATION, GROUPS, DEFORMED
    )
    wide = mmcv_ops.modulated_deform_conv2d(
        *(t.float() for t in (x, offset, mask, weight, bias)),
        STRIDE,
        PADDING,
        DILATION,
        GROUPS,
        DEFORMED,
    )
    assert output.dtype == dtype
    torch.testing.assert_close(output, wide.to(dtype), rtol=0, atol=0)
