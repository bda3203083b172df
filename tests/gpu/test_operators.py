"""Every operator of the stand-in for mmcv's on a GPU against its result on the CPU."""

import importlib

import pytest
import torch

from backbone.openmmlab import ops

ops.install()
mmcv_ops = importlib.import_module('mmcv.ops')


def random(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def boxes(n, seed=0):
    corners = 20 * random(n, 2, seed=seed).abs()
    return torch.cat([corners, corners + 1 + 15 * random(n, 2, seed=seed + 1).abs()], 1)


def turned(n, seed=0):
    """Rotated boxes: centre, size, angle. Shape: n 5."""
    centre, size = 20 * random(n, 2, seed=seed).abs(), 1 + 10 * random(n, 2, seed=seed + 1).abs()
    return torch.cat([centre, size, random(n, 1, seed=seed + 2)], 1)


def rois(found):
    """Regions of two images. Shape: n k → n 1+k."""
    return torch.cat([torch.arange(len(found))[:, None] % 2, found], 1)


def attend(value, places, weights):
    sizes = torch.tensor([[6, 8], [3, 4]], device=value.device)
    starts = torch.tensor([0, 48], device=value.device)
    function = mmcv_ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction
    return function.apply(value, sizes, starts, places, weights, 64)


X = random(2, 4, 16, 20, seed=1)
SCORES = random(60, seed=2).sigmoid()
LABELS = torch.arange(60) % 3
RPN = rois(boxes(6))
# Name: the function, and its inputs, of which those of floating point are given gradients.
DIFFERENTIABLE = {
    'roi_align': (lambda x: mmcv_ops.roi_align(x, RPN.to(x), (3, 2), 0.5, 2, 'avg', True), X),
    'roi_pool': (lambda x: mmcv_ops.roi_pool(x, RPN.to(x), (3, 2), 0.5), X),
    'roi_align_rotated': (
        lambda x: mmcv_ops.roi_align_rotated(x, rois(turned(6)).to(x), (3, 2), 0.5, 2),
        X,
    ),
    'deform_roi_pool': (
        lambda x, o: mmcv_ops.deform_roi_pool(x, RPN.to(x), o, (3, 2), 0.5, 2),
        X,
        random(6, 2, 3, 2, seed=3),
    ),
    'sigmoid_focal_loss': (
        lambda x: mmcv_ops.sigmoid_focal_loss(x, LABELS.to(x.device), 2.0, 0.25, None, 'none'),
        random(60, 3, seed=4),
    ),
    'softmax_focal_loss': (
        lambda x: mmcv_ops.softmax_focal_loss(x, LABELS.to(x.device), 2.0, 0.25),
        random(60, 3, seed=5),
    ),
    'deform_conv2d': (
        lambda x, o, w: mmcv_ops.deform_conv2d(x, o, w, 1, 1),
        X,
        random(2, 18, 16, 20, seed=6),
        random(5, 4, 3, 3, seed=7),
    ),
    'modulated_deform_conv2d': (
        lambda x, o, m, w, b: mmcv_ops.modulated_deform_conv2d(x, o, m, w, b, 1, 1),
        X,
        random(2, 18, 16, 20, seed=6),
        random(2, 9, 16, 20, seed=8).sigmoid(),
        random(5, 4, 3, 3, seed=7),
        random(5, seed=9),
    ),
    'multi_scale_deform_attn': (
        attend,
        random(2, 60, 2, 4, seed=10),
        random(2, 7, 2, 2, 3, 2, seed=11).sigmoid(),
        random(2, 7, 2, 2, 3, seed=12).sigmoid(),
    ),
    'carafe': (lambda x, m: mmcv_ops.carafe(x, m, 3, 2, 2), X, random(2, 18, 32, 40, seed=13)),
    'carafe_naive': (  # mmcv has no backward pass of it on the CPU; the other one is equal
        lambda x, m: (mmcv_ops.carafe_naive if x.is_cuda else mmcv_ops.carafe)(x, m, 3, 2, 2),
        X,
        random(2, 18, 32, 40, seed=13),
    ),
    'PSAMask': (lambda x: mmcv_ops.PSAMask('collect', (3, 5))(x), random(2, 15, 6, 7, seed=14)),
    'PSAMask distribute': (
        lambda x: mmcv_ops.PSAMask('distribute', (3, 5))(x),
        random(2, 15, 6, 7, seed=14),
    ),
}
PLAIN = {
    'nms': lambda d: mmcv_ops.nms(boxes(60).to(d), SCORES.to(d), 0.4),
    'soft_nms': lambda d: mmcv_ops.soft_nms(boxes(60).to(d), SCORES.to(d), 0.4),
    'batched_nms': lambda d: mmcv_ops.batched_nms(
        boxes(60).float().to(d), SCORES.float().to(d), LABELS.to(d), dict(iou_threshold=0.4)
    ),
    'nms_match': lambda d: mmcv_ops.nms_match(
        torch.cat([boxes(60), SCORES[:, None]], 1).to(d), 0.4
    ),
    'nms_rotated': lambda d: mmcv_ops.nms_rotated(turned(60).to(d), SCORES.to(d), 0.4),
    'box_iou_rotated': lambda d: mmcv_ops.box_iou_rotated(turned(9).to(d), turned(8, 7).to(d)),
    'masked_conv2d': lambda d: mmcv_ops.masked_conv2d(
        X[:1].to(d),
        (X[:1, 0] > 0).to(d, X.dtype),
        random(5, 4, 3, 3, seed=7).to(d),
        random(5, seed=9).to(d),
        1,
    ),
    'line_nms': lambda d: mmcv_ops.line_nms(
        random(30, 77, seed=15).sigmoid().to(d), SCORES[:30].to(d), 0.3, 9
    ),
}
# By name of an operator: the test above that calls it, where the names differ.
CALLED = {
    'softnms': 'soft_nms',
    'modulated_deform_conv': 'modulated_deform_conv2d',
    'deform_conv': 'deform_conv2d',
    'ms_deform_attn': 'multi_scale_deform_attn',
    'psamask': 'PSAMask',
    'masked_im2col': 'masked_conv2d',
    'masked_col2im': 'masked_conv2d',
}
WITHOUT = {'get_compiler_version', 'get_compiling_cuda_version'}


def flat(value):
    """All tensors of a result, on the CPU; lists of indices as they are."""
    values = value if isinstance(value, (tuple, list)) else [value]
    return [torch.as_tensor(v).cpu() for v in values]


@pytest.mark.gpu
@pytest.mark.parametrize('name', DIFFERENTIABLE)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16])
def test_result_and_gradients(name, dtype, gpu):
    function, *inputs = DIFFERENTIABLE[name]
    results = []
    for device, kind in ((gpu, dtype), ('cpu', torch.float64)):
        # both get the values that the type can hold
        leaves = [x.to(dtype).to(device, kind).requires_grad_() for x in inputs]
        out = function(*leaves)
        weights = random(*out.shape, seed=20).to(dtype).to(out)
        results.append([out, *torch.autograd.grad(out, leaves, weights)])
    bound = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2}[dtype]
    for found, expected in zip(*results, strict=True):
        difference = (found.double().cpu() - expected).abs().max()
        assert expected.abs().max() > 0
        assert difference <= bound * expected.abs().max(), name


@pytest.mark.gpu
@pytest.mark.parametrize('name', PLAIN)
def test_result(name, gpu):
    for found, expected in zip(flat(PLAIN[name](gpu)), flat(PLAIN[name]('cpu')), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_operator_is_called():
    extension = importlib.import_module('mmcv._ext')
    names = {name for name in vars(extension) if not name.startswith('_')}
    for name in names - WITHOUT:
        for ending in ('_forward', '_backward', '_backward_input', '_backward_parameters'):
            name = name.removesuffix(ending)
        assert name in WITHOUT or CALLED.get(name, name) in DIFFERENTIABLE.keys() | PLAIN.keys()
