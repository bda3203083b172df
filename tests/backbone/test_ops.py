"""The stand-in for `mmcv._ext`, through `mmcv.ops`, against formulas written independently."""

import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backbone.openmmlab import (
    deformable,
    ops,
    resampling,
    rotated,
    softmax_focal,
    suppression,
)
from tests.helpers.operators import HALF, mmcv_ops
from tests.helpers.paths import ROOT

OURS = {
    'nms',
    'softnms',
    'roi_align_forward',
    'roi_align_backward',
    'roi_pool_forward',
    'roi_pool_backward',
    'sigmoid_focal_loss_forward',
    'sigmoid_focal_loss_backward',
    'get_compiler_version',
    'get_compiling_cuda_version',
}
IN_OTHER_FILES = {
    operator.__name__
    for file in (deformable, resampling, rotated, softmax_focal, suppression)
    for operator in file.OPERATORS
}


def test_operators_under_test_are_ours():
    assert ops.is_installed(), 'mmcv has compiled operators: these tests would test those'
    assert ops.install()  # a second time changes nothing
    ext = importlib.import_module('mmcv._ext')
    assert {name for name in vars(ext) if not name.startswith('_')} == OURS | IN_OTHER_FILES
    assert all(getattr(ext, name) is getattr(ops, name) for name in OURS)
    assert importlib.import_module('mmcv')._ext is ext


# --- NMS


def greedy_nms(boxes, scores, threshold, offset=0):
    """Plain loop over float64 arrays: indices of the kept boxes, by descending score."""
    boxes, scores = (t.double().cpu().numpy() for t in (boxes, scores))
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    keep = []
    for i in np.argsort(-scores):
        for j in keep:
            sides = (
                np.minimum(boxes[i, 2:], boxes[j, 2:])
                - np.maximum(boxes[i, :2], boxes[j, :2])
                + offset
            )
            overlap = sides.clip(0).prod()
            if overlap > threshold * (areas[i] + areas[j] - overlap):
                break
        else:
            keep.append(i)
    return [int(i) for i in keep]


def random_boxes(n, dtype, device, seed=0):
    """Boxes with whole corners below 41 (exact in bfloat16, shifted by class too), and scores."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 25, (n, 2), generator=g)
    boxes = torch.cat([corner, corner + torch.randint(2, 16, (n, 2), generator=g)], 1)
    scores = (torch.randperm(n, generator=g) + 1) / 128  # distinct, n <= 128
    return boxes.to(device, dtype), scores.to(device, dtype)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms(dtype, offset, device):
    for seed in range(5):
        boxes, scores = random_boxes(100, dtype, device, seed)
        for b in (boxes, boxes * 7.3):
            for threshold in (0.3137, 0.5137):
                dets, keep = mmcv_ops.nms(b, scores, threshold, offset=offset)
                assert keep.dtype == torch.int64
                assert keep.tolist() == greedy_nms(b, scores, threshold, offset)
                assert torch.equal(dets, torch.cat([b[keep], scores[keep, None]], 1))
    assert 0 < len(keep) < 100
    assert greedy_nms(boxes, scores, 0.3137, 0) != greedy_nms(boxes, scores, 0.3137, 1)


def test_nms_mixed_types_score_threshold_and_numpy():
    boxes, scores = random_boxes(60, torch.float32, 'cpu')
    keep = greedy_nms(boxes, scores, 0.4137)
    assert mmcv_ops.nms(boxes, scores.half(), 0.4137)[1].tolist() == keep
    assert mmcv_ops.nms(boxes.numpy(), scores.numpy(), 0.4137)[1].tolist() == keep
    kept = mmcv_ops.nms(boxes, scores, 0.4137, score_threshold=0.2, max_num=4)[1].tolist()
    assert kept == [i for i in keep if scores[i] > 0.2][:4]


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('split_thr', [10000, 10])
def test_batched_nms(dtype, split_thr, device):
    boxes, scores = random_boxes(100, dtype, device, seed=7)
    labels = torch.arange(100, device=device) % 3
    cfg = {'type': 'nms', 'iou_threshold': 0.3137, 'split_thr': split_thr}
    dets, keep = mmcv_ops.batched_nms(boxes, scores, labels, cfg)
    expected = []
    for label in range(3):
        own = (labels == label).nonzero()[:, 0]
        expected += own[greedy_nms(boxes[own], scores[own], 0.3137)].tolist()
    assert keep.tolist() == sorted(expected, key=lambda i: -scores[i].item())
    assert torch.equal(dets, torch.cat([boxes[keep], scores[keep, None]], 1))


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
def test_nms_of_nothing(dtype, device):
    boxes, scores = random_boxes(0, dtype, device)
    dets, keep = mmcv_ops.nms(boxes, scores, 0.5, offset=1)
    assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.int64


# --- RoIAlign


def axis_weights(start, length, bins, ratio, size):
    """(bins, size): how much each of `size` cells counts in each bin along one axis."""
    grid = ratio or int(np.ceil(length / bins))
    if grid == 0:  # an empty box has no samples
        return torch.zeros(bins, size)
    at = start + (torch.arange(bins * grid).double() + 0.5) * length / (bins * grid)
    cells = torch.arange(size).double()
    hat = (1 - (at.clamp(0, size - 1)[:, None] - cells).abs()).clamp(min=0)  # bilinear
    hat = hat * ((at >= -1) & (at <= size))[:, None]  # samples further outside are zero
    return hat.view(bins, grid, size).mean(1)


def reference_roi_align(x, rois, size, scale, ratio, aligned):
    """RoIAlign as the product of two small matrices per RoI: A_y x A_x^T."""
    out = [x.new_zeros(0, x.shape[1], *size)]
    for index, *corners in rois.tolist():
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        w, h = (s if aligned else max(s, 1.0) for s in (x2 - x1, y2 - y1))
        a_y = axis_weights(y1, h, size[0], ratio, x.shape[2]).to(x)
        a_x = axis_weights(x1, w, size[1], ratio, x.shape[3]).to(x)
        out.append(torch.einsum('ph,chw,qw->cpq', a_y, x[int(index)], a_x)[None])
    return torch.cat(out)


def feature_and_rois(device, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 13, 17, generator=g, dtype=torch.float64)
    rois = torch.tensor(
        [
            [0, 1.3, 2.1, 9.7, 8.2],
            [1, 0, 0, 17, 13],
            [0, 4.2, 3.3, 4.6, 3.5],  # in, all, tiny
            [1, -6.5, -3.2, 5.1, 4.4],
            [0, 12.4, 9.1, 25.7, 19.3],
            [1, 40, 40, 50, 50],  # partly, not
            [0, 5, 5, 5, 5],  # empty box
        ],
        dtype=torch.float64,
    )
    return x.to(device, dtype), rois.to(device, dtype)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('scale', [1.0, 0.5, 0.25])
@pytest.mark.parametrize('size', [(7, 7), (2, 5)])
def test_roi_align(aligned, ratio, scale, size, device):
    x, rois = feature_and_rois(device)
    rois[:, 1:] /= scale * 1.1
    x.requires_grad_()
    out = mmcv_ops.roi_align(x, rois, size, scale, ratio, 'avg', aligned)
    expected = reference_roi_align(x, rois, size, scale, ratio, aligned)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, x, cotangent)
    (expected_grad,) = torch.autograd.grad(expected, x, cotangent)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-10)
    assert out.abs().sum() > 0 and grad.abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('rois_dtype', [torch.float32, torch.bfloat16])
def test_roi_align_types_and_channels_last(dtype, rois_dtype, device):
    x, rois = feature_and_rois(device, dtype)
    rois = rois.to(rois_dtype)
    expected = reference_roi_align(x.double(), rois, (3, 4), 0.5, 2, True)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    out = mmcv_ops.roi_align(x, rois, (3, 4), 0.5, 2, 'avg', True)
    (grad,) = torch.autograd.grad(out.permute(0, 2, 3, 1).sum(), x)
    assert out.dtype == grad.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps  # a few roundings, in the result's type
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    y = x.detach().double().requires_grad_()
    reference_roi_align(y, rois, (3, 4), 0.5, 2, True).sum().backward()
    torch.testing.assert_close(grad.double(), y.grad, rtol=tolerance, atol=tolerance)


def test_roi_align_of_nothing(device):
    x, rois = feature_and_rois(device, torch.float32)
    x.requires_grad_()
    out = mmcv_ops.roi_align(x, rois[:0], (7, 7), 1.0, 0, 'avg', True)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_roi_align_max_raises():
    x, rois = feature_and_rois('cpu')
    with pytest.raises(NotImplementedError, match=r"'max'.*pool_mode='avg'"):
        mmcv_ops.roi_align(x, rois, (7, 7), 1.0, 0, 'max', True)
    empty = x.new_empty(0)
    with pytest.raises(NotImplementedError, match="'max'"):
        ops.roi_align_backward(x, rois, empty, empty, x, 7, 7, 1.0, 0, 0, True)


def test_mask_targets():
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((2, 20, 30), dtype=np.uint8)
    masks[0, 5:15, 10:20] = masks[1, :, :15] = 1
    boxes = np.array([[10, 5, 20, 15], [5, 0, 25, 20], [0, 5, 20, 15]], dtype=np.float32)
    targets = BitmapMasks(masks, 20, 30).crop_and_resize(boxes, (8, 8), np.array([0, 1, 0])).masks
    left, right = np.arange(8) < 4, np.arange(8) >= 4
    for target, columns in zip(targets, (left | right, left, right), strict=True):
        assert np.array_equal(target, np.broadcast_to(columns, (8, 8)))


# --- sigmoid focal loss


def reference_focal(x, target, gamma, alpha, weight=None):
    """Eq. (5) of arXiv:1708.02002 as printed, on one-hot labels; no factor for background."""
    one_hot = F.one_hot(target, x.shape[1] + 1)[:, :-1].to(x)
    p = x.sigmoid()
    loss = -(
        alpha * one_hot * (1 - p) ** gamma * p.log()
        + (1 - alpha) * (1 - one_hot) * p**gamma * (1 - p).log()
    )
    return loss if weight is None else loss * torch.cat([weight, weight.new_ones(1)])[target, None]


def logits_and_labels(device, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=g, dtype=torch.float64) * 3
    return x.to(device, dtype).requires_grad_(), torch.arange(40, device=device) % 6  # 5: nothing


@pytest.mark.parametrize('gamma,alpha', [(2.0, 0.25), (0.0, 0.5), (1.5, 0.8)])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
def test_focal_loss(gamma, alpha, weighted, reduction, device):
    x, target = logits_and_labels(device)
    weight = torch.tensor([0.5, 2, 0, 3, 1.5], device=device).to(x) if weighted else None
    loss = mmcv_ops.sigmoid_focal_loss(x, target, gamma, alpha, weight, reduction)
    expected = reference_focal(x, target, gamma, alpha, weight)
    if reduction != 'none':  # mmcv's mean is over rows, not elements
        expected = expected.sum() / (len(x) if reduction == 'mean' else 1)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
    cotangent = torch.randn_like(loss)
    (grad,) = torch.autograd.grad(loss, x, cotangent)
    (expected_grad,) = torch.autograd.grad(expected, x, cotangent)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, *HALF])
def test_focal_loss_of_extreme_logits(dtype, device):
    x = torch.tensor(
        [[100.0, -100.0], [-100.0, 100.0]], device=device, dtype=dtype, requires_grad=True
    )
    loss = mmcv_ops.sigmoid_focal_loss(
        x, torch.tensor([0, 0], device=device), 2.0, 0.25, None, 'none'
    )
    (grad,) = torch.autograd.grad(loss.sum(), x)
    # right by far: nothing; wrong by far: alpha_t |x|, with slope alpha_t
    torch.testing.assert_close(loss, torch.tensor([[0.0, 0], [25, 75]]).to(loss))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0], [-0.25, 0.75]]).to(grad))


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
def test_focal_loss_in_low_precision(dtype, device):
    x, target = logits_and_labels(device, dtype)
    y = x.detach().double().requires_grad_()
    loss = mmcv_ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none')
    expected = reference_focal(y, target, 2.0, 0.25)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), y)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_focal_loss_of_nothing(reduction, device):
    x = torch.zeros(0, 5, device=device, requires_grad=True)
    target = torch.zeros(0, dtype=torch.long, device=device)
    for weight in (None, torch.ones(5, device=device)):
        loss = mmcv_ops.sigmoid_focal_loss(x, target, 2.0, 0.25, weight, reduction)
        assert loss.shape == ((0, 5) if reduction == 'none' else ()) and loss.sum() == 0
        assert torch.autograd.grad(loss.sum(), x)[0].shape == (0, 5)


# --- the module


def names_loaded_by_mmcv():
    """Every operator name that a module of mmcv.ops hands to load_ext."""
    names = set()
    for folder in importlib.util.find_spec('mmcv').submodule_search_locations:
        for path in Path(folder, 'ops').glob('*.py'):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                    names.update(ast.literal_eval(node.args[1]))
    return names


NAMES = names_loaded_by_mmcv()
assert len(NAMES) >= 50 and NAMES > OURS


@pytest.mark.parametrize('name', sorted(NAMES - OURS - IN_OTHER_FILES))
def test_other_operators_raise(name):
    operator = getattr(importlib.import_module('mmcv._ext'), name)
    with pytest.raises(ops.MissingOperator, match=f"'{name}'.*MMCV_WITH_OPS=1 pip install"):
        operator(torch.zeros(1), key=1)


def test_mmcvs_report_of_the_environment():
    from mmcv.utils import collect_env

    report = collect_env()
    assert report['MMCV Compiler'].startswith('none')
    assert report['MMCV CUDA Compiler'] == 'not available'


def test_the_module_bears_inspection():
    ext = importlib.import_module('mmcv._ext')
    assert not any(hasattr(ext, name) for name in ('__path__', '__file__', '__wrapped__', '_x'))
    assert inspect.getmodule(ext) is ext and inspect.getmembers(ext)
    assert pickle.loads(pickle.dumps(ext.nms)) is copy.deepcopy(ext.nms) is ops.nms
    with pytest.raises(ops.MissingOperator, match='nms_quadri'):
        pickle.loads(pickle.dumps(ext.nms_quadri))()


def run_python(code):
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mmdet_imports_after_install_even_if_mmcv_failed_before():
    run_python("""
import importlib.machinery
import importlib.util
try:
    import mmcv.ops
    raise SystemExit('mmcv.ops imports without the stand-in')
except ModuleNotFoundError as e:
    assert e.name == 'mmcv._ext'
from backbone.openmmlab import ops
assert ops.install() and ops.is_installed()
assert importlib.util.find_spec('mmcv._ext').name == 'mmcv._ext'
import mmdet.models
""")


def test_compiled_operators_are_left_alone(tmp_path):
    tmp_path.joinpath('_ext.py').write_text("""
def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return 'compiled'
""")
    run_python(f"""
import mmcv
mmcv.__path__.append({str(tmp_path)!r})
from backbone.openmmlab import ops
for _ in range(2):  # not yet imported, then imported
    assert ops.install() is False and not ops.is_installed()
    import mmcv._ext
    assert mmcv._ext.nms == 'compiled' and mmcv._ext.__file__.startswith({str(tmp_path)!r})
""")


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('_ext' + importlib.machinery.EXTENSION_SUFFIXES[0], 'not a library', '_ext.*(short|ELF)'),
        ('_ext.py', 'raise ImportError("undefined symbol: _ZN5torch")', 'undefined symbol: _ZN5'),
        ('_ext.py', 'raise OSError("libcudart.so.11: no such file")', 'libcudart.so.11'),
    ],
    ids=['damaged', 'another PyTorch', 'another CUDA'],
)
def test_compiled_operators_that_do_not_load_are_replaced(name, content, reason, tmp_path):
    tmp_path.joinpath(name).write_text(content)
    stderr = run_python(f"""
import mmcv
mmcv.__path__.append({str(tmp_path)!r})
import mmdet_plugin, mmseg_plugin, torch
from mmcv.ops import nms
boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
assert mmdet_plugin.ops.install() and mmdet_plugin.ops.is_installed()
""")
    assert stderr.count("mmcv's compiled operators cannot be loaded") == 1, stderr
    assert re.search(rf'RuntimeWarning: .* cannot be loaded \(.*{reason}.*\): torchvision', stderr)
