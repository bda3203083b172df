"""Mixed precision on a CPU, which mmengine's own wrapper refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from backbone.errors import UserError


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


def use_amp(cfg: Config) -> None:
    """Mixed precision: bfloat16 where the device has it, on other GPUs float16 with a scaled loss.

    Raises:
        UserError: neither a GPU nor a CPU with instructions for bfloat16.
    """
    if torch.cuda.is_available():
        dtype = 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype=dtype)
    elif _cpu_has_bfloat16():
        cfg.optim_wrapper.type = 'CpuAmpOptimWrapper'
    else:
        raise UserError('--amp needs a GPU or a CPU with bfloat16 instructions: leave it out')
    widen_rois(cfg)


def widen_rois(cfg: Config) -> None:
    """RoI features in float32, whatever the precision of the maps, see `WideRoIExtractor`."""
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = cfg.model.get('roi_head', {}).get(name, {})
        if extractor.get('type') == 'SingleRoIExtractor':
            extractor.type = 'WideRoIExtractor'
