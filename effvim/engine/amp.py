"""Mixed precision: in training on a CPU, which mmengine refuses, and in inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from effvim.config.precision import amp_dtype

# The networks inside a detector or segmentor, by mmdet's and mmseg's names.
NETWORKS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head', 'decode_head')


@OPTIM_WRAPPERS.register_module()
class EffViMCpuAmpOptimWrapper(OptimWrapper):
    """Runs the forward passes of training in bfloat16; its range is float32's: no loss scaling."""

    @contextmanager
    def optim_context(self, model: Any) -> Iterator[None]:
        """As `OptimWrapper`'s, under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def autocast_networks(model: nn.Module) -> None:
    """Run backbone, neck and heads of `model` in mixed precision, in place, for inference.

    Their forward methods are wrapped, since mmdet and mmseg offer no switch between networks and
    decoding: under an autocast around the whole model, boxes would be decoded in bfloat16, where a
    corner at 1,000 pixels moves by up to 2. What the networks return is float32 again.

    Raises:
        UserError: as `amp_dtype`.
    """
    dtype = amp_dtype()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'

    def under_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype):
                return _to_float32(forward(*args, **kwargs))

        return inner

    for name, module in model.named_modules():
        if name.rpartition('.')[2] in NETWORKS:
            module.forward = under_autocast(module.forward)


def _to_float32(value: Any) -> Any:
    """The same tensors in float32, in whatever tuples and lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(_to_float32(item) for item in value)
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
