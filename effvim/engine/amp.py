"""Mixed precision on a CPU, which mmengine's own wrapper refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from effvim.config.precision import amp_dtype

# The parts of a detector or segmentor that are networks, by the names they have everywhere.
NETWORKS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head', 'decode_head')


@OPTIM_WRAPPERS.register_module()
class EffViMCpuAmpOptimWrapper(OptimWrapper):
    """Forward passes of training in bfloat16, which has float32's range: no loss is scaled."""

    @contextmanager
    def optim_context(self, model: Any) -> Iterator[None]:
        """As `OptimWrapper`'s, under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def autocast_networks(model: nn.Module) -> None:
    """Mixed precision in inference: inside backbone, neck and heads, in place.

    What they give is float32 again: in bfloat16 a corner at 1,000 pixels moves by up to 2.

    Raises:
        UserError: as `narrow_type`.
    """
    dtype = amp_dtype()
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
