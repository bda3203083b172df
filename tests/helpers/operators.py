"""Types, inputs and checks for the tests of `backbone.openmmlab`'s operators, and mmcv's module.

Expected values in these tests are those of plain loops in NumPy, written from the papers, or are
cited from mmcv's own tests (tests/test_ops/ of open-mmlab/mmcv).
"""

import importlib

import torch

from backbone.openmmlab import ops

ops.install()
mmcv_ops = importlib.import_module('mmcv.ops')  # after install, or the import fails

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
