"""Mixed precision on a CPU, which mmengine's own wrapper refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from backbone.errors import UserError

# The parts of a detector or segmentor that are networks, by the names they have everywhere.
NETWORKS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head', 'decode_head')


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Forward passes of training in bfloat16, which has float32's range: no loss is scaled."""

    @contextmanager
    def optim_context(self, model: Any) -> Iterator[None]:
        """As `OptimWrapper`'s, under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def available() -> bool:
    """Whether mixed precision pays: a GPU, or a CPU with instructions for products of bfloat16."""
    return torch.cuda.is_available() or _cpu_has_bfloat16()


def _cpu_has_bfloat16() -> bool:
    has = getattr(torch.cpu, '_is_avx512_bf16_supported', None)  # not in every torch
    return bool(has and has())


def narrow_type() -> torch.dtype:
    """bfloat16 where the device has it, float16 on other GPUs.

    Raises:
        UserError: neither a GPU nor a CPU with instructions for bfloat16.
    """
    if not available():
        raise UserError('--amp needs a GPU or a CPU with bfloat16 instructions: leave it out')
    wide = not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
    return torch.bfloat16 if wide else torch.float16


def use_amp(cfg: Config) -> None:
    """Mixed precision in training, on a GPU with a scaled loss.

    Raises:
        UserError: as `narrow_type`.
    """
    dtype = str(narrow_type()).removeprefix('torch.')
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype=dtype)
    else:
        cfg.optim_wrapper.type = 'CpuAmpOptimWrapper'
    widen_rois(cfg)


def narrow(model: nn.Module) -> None:
    """Mixed precision in inference: inside backbone, neck and heads, in place.

    What they give is float32 again: in bfloat16 a corner at 1,000 pixels moves by up to 2.

    Raises:
        UserError: as `narrow_type`.
    """
    dtype = narrow_type()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'

    def narrowed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype):
                return _widened(forward(*args, **kwargs))

        return inner

    for name, module in model.named_modules():
        if name.rpartition('.')[2] in NETWORKS:
            module.forward = narrowed(module.forward)


def _widened(value: Any) -> Any:
    """Tensors in float32, in whatever tuples and lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(_widened(part) for part in value)
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def widen_rois(cfg: Config) -> None:
    """RoI features in float32, whatever the precision of the maps, see `WideRoIExtractor`."""
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = cfg.model.get('roi_head', {}).get(name, {})
        if extractor.get('type') == 'SingleRoIExtractor':
            extractor.type = 'WideRoIExtractor'
