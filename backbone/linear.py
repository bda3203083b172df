"""Matrix products with a bias, by the fastest that PyTorch has for them."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

# oneDNN's product, which adds the bias to each result while it is in a register; `F.linear` writes
# it into the result first. Its own ReLU is not used: it turns NaN into 0.
onednn_linear: Any = getattr(torch.ops.mkldnn, '_linear_pointwise', None)

# Multiplications; below, the 15 µs that a call takes to start are not regained, nor the 2 ms of the
# first call of each shape.
SMALLEST_PRODUCT = 2**26


def fits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `onednn_linear` may compute a product: it has no gradients, cannot be traced or
    counted, and reads the bias as if it were contiguous.

    In float16 CPUs are slower with it, and autocast has to choose the precision itself.
    """
    return (
        not torch.compiler.is_compiling()
        and onednn_linear is not None
        and is_plain(x, x.dtype)  # first: what torch.fx passes has no size
        and x.numel() * weight.shape[0] >= SMALLEST_PRODUCT
        and x.dtype in (torch.float32, torch.bfloat16)
        and is_plain(weight, x.dtype)
        and (bias is None or (is_plain(bias, x.dtype) and bias.is_contiguous()))
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
        and forward_ad._current_level < 0
        and _get_current_dispatch_mode() is None
        and torch._C._get_mkldnn_enabled()
        and torch.backends.mkldnn.is_available()
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def is_plain(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is of a type and lies in the CPU's memory, under no transformation."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == 'cpu'
        and x.layout == torch.strided
        and x.dtype == dtype
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


@torch.fx.wrap
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b. Shape: x … C, W D C, b D → … D."""
    if not torch.jit.is_scripting():  # noqa: SIM102  so that the next line is not compiled
        if fits_onednn(x, weight, bias):
            return onednn_linear(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


class InferenceLinear(nn.Linear):
    """`nn.Linear` by `linear`. Shape: … C → … D."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
