"""Mixed precision in a config, and where it is available."""

from __future__ import annotations

import torch
from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.machine import processor

SLOWER = (
    'this CPU computes in float32 faster than in bfloat16: --amp makes training slower here, and '
    'saves memory'
)


def amp_available() -> bool:
    """Whether mixed precision is available: on a GPU, or a CPU with bfloat16 instructions."""
    return torch.cuda.is_available() or _cpu_has('avx512_bf16')


def amp_is_faster() -> bool:
    """Whether mixed precision is available and faster than float32.

    On Intel's CPUs it is with AMX only: with AVX512-BF16 alone, as in virtual machines that hide
    AMX, bfloat16 takes 1.3 to 1.6 times as long as float32 (measured on a Xeon).
    """
    slow = 'Intel' in processor() and not _cpu_has('amx_tile')
    return torch.cuda.is_available() or (_cpu_has('avx512_bf16') and not slow)


def _cpu_has(instructions: str) -> bool:
    has = getattr(torch.cpu, f'_is_{instructions}_supported', None)  # not in every torch
    return bool(has and has())


def amp_dtype() -> torch.dtype:
    """The lower-precision type: bfloat16 where the device has it, float16 on other GPUs.

    Raises:
        UserError: neither a GPU nor a CPU with instructions for bfloat16.
    """
    if not amp_available():
        raise UserError('--amp needs a GPU or a CPU with bfloat16 instructions: drop the flag')
    wide = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(
        including_emulation=False  # which is slower than float32
    )
    return torch.bfloat16 if wide else torch.float16


def use_amp(cfg: Config) -> None:
    """Train in mixed precision; on a GPU with a scaled loss.

    Raises:
        UserError: as `amp_dtype`.
    """
    dtype = str(amp_dtype()).removeprefix('torch.')
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype=dtype)
    else:
        cfg.optim_wrapper.type = 'EffViMCpuAmpOptimWrapper'
    use_float32_rois(cfg)


def use_float32_rois(cfg: Config) -> None:
    """Extract RoI features in float32, see `EffViMSingleRoIExtractor`."""
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractor = cfg.model.get('roi_head', {}).get(name) or {}  # None: no masks
        if extractor.get('type') == 'SingleRoIExtractor':
            extractor.type = 'EffViMSingleRoIExtractor'
