"""The softmax focal loss, through `mmcv.ops`, against plain loops."""

import importlib

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from tests.helpers.operators import HALF, TYPES, mmcv_ops, random

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
