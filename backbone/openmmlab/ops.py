"""A stand-in for `mmcv._ext`, mmcv's compiled operators, on torch and torchvision.

mmdet, and mmsegmentation 1.2, import `mmcv.ops`, every module of which loads the C++ extension
`mmcv._ext` and asserts that its functions exist. Installed from the package registry, mmcv has no
such extension, and compiling it needs a toolchain and ten minutes. `install()` puts a module with
the operators that mmdet's and mmseg's models use in its place, in mmcv's calling convention
(results are written into the tensors passed in, or returned where mmcv expects that):

- here NMS and soft-NMS, RoIAlign (average), RoIPool, the sigmoid focal loss;
- deformable.py: deformable convolution and attention;
- resampling.py: CARAFE, masked convolution, PSANet's masks, deformable RoI pooling;
- rotated.py: overlap, NMS and RoIAlign of rotated boxes;
- softmax_focal.py: the softmax focal loss;
- suppression.py: NMS with its groups, NMS of lane lines.

It must run before mmcv.ops is imported. Every other operator can be looked up, as mmcv asserts, and
raises `MissingOperator` when called.

Compiled operators that load are used untouched. Those that cannot be loaded, e.g. built for another
PyTorch, are replaced as well, with a warning.

All arithmetic is in at least float32 (`wide`), on every device: torchvision's kernels lack some
half types, and bfloat16 cannot add so much as the offset of 1 to a corner beyond 256.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
import torchvision  # registers torch.ops.torchvision
from torch import Tensor

from backbone.openmmlab import deformable, resampling, rotated, softmax_focal, suppression
from backbone.openmmlab.numerics import wide

_NAME = 'mmcv._ext'

_ORIGIN = 'backbone.openmmlab.ops'  # marks our module, also after a reload of this file

_REINSTALL = 'pip install --force-reinstall --no-deps --no-cache-dir --no-binary onedl-mmcv'
_COMPILE = f'MMCV_WITH_OPS=1 {_REINSTALL} --no-build-isolation onedl-mmcv'
_WITHOUT_OPERATORS = f'MMCV_WITH_OPS=0 {_REINSTALL} onedl-mmcv'


class MissingOperator(NotImplementedError):
    """A compiled mmcv operator was called that the stand-in does not have."""


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        bboxes: (N, 4) corners x1, y1, x2, y2, any floating type.
        scores: (N,), any floating type.
        iou_threshold: boxes that overlap a kept one by more than this are dropped.
        offset: 0, or 1 for boxes whose width is x2 - x1 + 1 (corners are pixel indices).

    Returns:
        (K,) int64 indices of the kept boxes, by descending score; (0,) for N = 0. Not all of them
        inside `suppression.limited_to`.
    """
    dtype = wide(bboxes, scores)
    # torchvision has no offset: moving x2 and y2 gives the same widths and intersections.
    # Scores that tie may come out in another order than from the compiled operator.
    bboxes = bboxes.to(dtype) + bboxes.new_tensor([0, 0, offset, offset], dtype=dtype)
    return suppression.greedy_nms(bboxes, scores.to(dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression, Fig. 2 of arXiv:1704.04503: overlap lowers a score.

    Args:
        boxes: (N, 4), scores: (N,), as in `nms`.
        dets: (N, 5), whose first K rows receive boxes and lowered scores, highest-scoring first.
        iou_threshold: hard and linear methods: from here on scores are lowered.
        sigma: Gaussian method, Eq. (4).
        min_score: boxes whose score falls below are dropped.
        method: 0 hard, 1 linear, 2 Gaussian.
        offset: as in `nms`.

    Returns:
        (K,) int64 indices of the kept boxes.
    """
    dtype = wide(boxes, scores)
    remaining, corners = scores.to(dtype).clone(), boxes.to(dtype)
    kept: list[int] = []
    ends = corners + corners.new_tensor([0, 0, offset, offset])
    for _ in range(len(boxes)):
        best = int(remaining.argmax())
        score = remaining[best].item()
        if score == -torch.inf:
            break
        dets[len(kept)] = torch.cat([corners[best], remaining[best : best + 1]])
        kept.append(best)
        # of two boxes without area it is 0 / 0
        iou = torchvision.ops.box_iou(ends[best : best + 1], ends)[0].nan_to_num(0)
        if method == 2:
            factor = torch.exp(-iou.square() / sigma)
        else:
            factor = torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        remaining = torch.where(remaining > -torch.inf, remaining * factor, remaining)
        remaining[remaining < min_score] = -torch.inf
        remaining[best] = -torch.inf
    return torch.tensor(kept, dtype=torch.int64)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum in each bin of a RoI (arXiv:1504.08083); `output` and `argmax` receive the result.

    Shapes as in `roi_align_forward`; `argmax` int32, for the backward pass.
    """
    dtype = wide(input)
    maxima, positions = torch.ops.torchvision.roi_pool(
        input.to(dtype), rois.to(dtype), spatial_scale, pooled_height, pooled_width
    )
    output.copy_(maxima)
    argmax.copy_(positions)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Gradient of `roi_pool_forward` with respect to `input`, into `grad_input`."""
    dtype = wide(grad_output)
    grad_input.copy_(
        torch.ops.torchvision._roi_pool_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            argmax.int(),
            spatial_scale,
            pooled_height,
            pooled_width,
            *grad_input.shape,
        )
    )


def _check_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' is not offered by the stand-in for mmcv's compiled "
            f"operators: use pool_mode='avg', or compile mmcv's: {_COMPILE}"
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign with average pooling; `output` receives the result.

    Args:
        input: (B, C, H, W), any floating type and memory format.
        rois: (K, 5) image index, x1, y1, x2, y2, in a type of its own; K may be 0.
        output: (K, C, aligned_height, aligned_width), overwritten.
        argmax_y, argmax_x: of max pooling, unused.
        spatial_scale: cells of `input` per unit of `rois`.
        sampling_ratio: samples per bin and axis, 0 for as many as the bin has cells.
        pool_mode: 1, average.
        aligned: sample at cell centres (shift by half a cell).

    Raises:
        NotImplementedError: with `pool_mode` 0, max.
    """
    _check_average(pool_mode)
    dtype = wide(input)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of `roi_align_forward` with respect to `input`, into `grad_input`.

    Args:
        grad_output: (K, C, aligned_height, aligned_width), any floating type.
        grad_input: (B, C, H, W), overwritten.

    The others, and what is raised, as in `roi_align_forward`.
    """
    _check_average(pool_mode)
    dtype = wide(grad_output)
    # The compiled operator adds to grad_input, ours overwrites it: mmcv passes zeros.
    # On CUDA with torch.use_deterministic_algorithms(True) ours raises, mmcv's stays silent.
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _focal_parts(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sign (+1 at the label's class, -1 elsewhere), sign * logit, and -alpha_t * weight.

    With z = sign * logit, p_t = sigmoid(z) and the loss of either side is
    -alpha_t (1 - p_t)^gamma log(p_t), Eq. (5) of arXiv:1708.02002.
    """
    dtype, classes = wide(input), input.shape[1]
    positive = target[:, None] == torch.arange(classes, device=target.device)  # N C
    sign = positive.to(dtype).mul_(2).sub_(1)
    scale = positive.to(dtype).mul_(1 - 2 * alpha).add_(alpha - 1)
    if weight.numel():
        # One factor per class, that of the row's label. Background has none: the compiled
        # operator reads past the end of `weight` there, ours takes 1.
        scale *= F.pad(weight.to(dtype), (0, 1), value=1)[target][:, None]
    return sign, sign * input.to(dtype), scale


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss of every logit; `output` receives the result.

    Args:
        input: (N, C) logits, any floating type; N may be 0.
        target: (N,) int64 labels, 0 to C - 1, C for background.
        weight: (C,) one factor per label, or empty.
        output: (N, C), overwritten.
        gamma: focusing exponent, >= 0.
        alpha: weight of the positive side, 1 - alpha that of the negative.
    """
    # Exact for every finite logit; the compiled operator cuts probabilities off at 1.2e-38,
    # so its loss stops growing at logits of 87.
    _, z, loss = _focal_parts(input, target, weight, alpha)
    output.copy_(loss.mul_(torch.sigmoid(-z).pow_(gamma)).mul_(F.logsigmoid(z)))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of the summed focal loss with respect to `input`, into `grad_input` (N, C).

    The other arguments as in `sigmoid_focal_loss_forward`.
    """
    sign, z, grad = _focal_parts(input, target, weight, alpha)
    # d/dz (1 - p)^gamma log(p) = (1 - p)^gamma (1 - p - gamma p log(p)), p = sigmoid(z)
    rest = torch.sigmoid(-z)
    inner = F.logsigmoid(z).mul_(torch.sigmoid(z)).mul_(-gamma).add_(rest)
    grad_input.copy_(grad.mul_(sign).mul_(rest.pow_(gamma)).mul_(inner))


def get_compiler_version() -> str:
    """What mmcv's report of the environment says of the compiler."""
    return 'none: the operators are torchvision functions'


def get_compiling_cuda_version() -> str:
    """What mmcv's report of the environment says of the CUDA compiler."""
    return 'not available'


def _missing(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise MissingOperator(
        f"mmcv's operator '{name}' is compiled code that the stand-in does not offer: "
        f'install mmcv with compiled operators: {_COMPILE}'
    )


class _StandIn(ModuleType):
    """The module that takes the place of `mmcv._ext`."""

    def __getattr__(self, name: str) -> Any:
        # Only operators: a faked `__path__` or `__file__` would mislead import and inspect.
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        return functools.partial(_missing, name)


def is_installed() -> bool:
    """Return whether the operators in use, `mmcv._ext`, are the stand-in of this file."""
    spec = getattr(sys.modules.get(_NAME), '__spec__', None)
    return getattr(spec, 'origin', None) == _ORIGIN


def _compiled_operators_load() -> bool:
    """Import mmcv's compiled operators if there are any; False, with a warning, if that fails."""
    if importlib.util.find_spec(_NAME) is None:  # imports mmcv
        return False
    try:
        importlib.import_module(_NAME)
    except (ImportError, OSError) as error:  # another PyTorch or CUDA, a file cut short
        reason = ' '.join(str(error).split())
        warnings.warn(
            f"mmcv's compiled operators cannot be loaded ({reason}): torchvision's are used "
            f'instead. To get rid of this warning, install an mmcv without them: '
            f'{_WITHOUT_OPERATORS}',
            RuntimeWarning,
            stacklevel=1,  # a module called mmdet_… may be filtered along with mmdet
        )
        return False
    return True


def install() -> bool:
    """Make mmcv's operators usable: the stand-in becomes `mmcv._ext` where mmcv has none that load.

    Compiled operators that cannot be loaded are replaced, with a warning that names the reason.

    Returns:
        True if the operators in use are the stand-in's, now or already; False if mmcv's own are.

    Raises:
        ModuleNotFoundError: mmcv is not installed.
    """
    if is_installed():
        return True
    if _compiled_operators_load():
        return False
    module = _StandIn(_NAME, __doc__)
    # importlib.util.find_spec, with which mmengine asks what mmcv can do, reads __spec__.
    module.__spec__ = ModuleSpec(_NAME, loader=None, origin=_ORIGIN)
    for operator in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        get_compiler_version,
        get_compiling_cuda_version,
        *deformable.OPERATORS,
        *resampling.OPERATORS,
        *rotated.OPERATORS,
        *softmax_focal.OPERATORS,
        *suppression.OPERATORS,
    ):
        setattr(module, operator.__name__, operator)
    sys.modules[_NAME] = module
    sys.modules['mmcv']._ext = module  # type: ignore[attr-defined]
    return True
