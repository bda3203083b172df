"""Linear layers for inference, by the fastest matrix product that PyTorch has on the device."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

# oneDNN's product, which adds bias and ReLU to each result while it is in a register. `F.linear`
# writes the bias into the result first, and ReLU reads and writes it all again.
ONEDNN: Any = getattr(torch.ops.mkldnn, '_linear_pointwise', None)

SMALLEST = 2**26  # multiplications; below, the 15 µs that a call takes to start are not regained


def fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `ONEDNN` may compute a product: it has no gradients and cannot be traced or counted.

    In float16 CPUs are slower with it, and autocast has to choose the precision itself.
    """
    return (
        not torch.compiler.is_compiling()
        and ONEDNN is not None
        and type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() * weight.shape[0] >= SMALLEST
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
        and not torch.jit.is_tracing()
        and forward_ad._current_level < 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and _get_current_dispatch_mode() is None
        and torch._C._get_mkldnn_enabled()
        and torch.backends.mkldnn.is_available()
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@torch.fx.wrap
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
    """x Wᵀ + b, then ReLU if asked for. Shape: x … C, W D C, b D → … D."""
    if not torch.jit.is_scripting():  # noqa: SIM102  so that the next line is not compiled
        if fits_onednn(x, weight):
            return ONEDNN(x, weight, bias, 'relu' if relu else 'none', [], '')
    y = F.linear(x, weight, bias)
    return y.relu_() if relu else y


class InferenceLinear(nn.Linear):
    """A linear layer that is never trained, optionally with ReLU. Shape: … C → … D."""

    def __init__(self, weight: Tensor, bias: Tensor, relu: bool = False) -> None:
        super().__init__(weight.shape[1], weight.shape[0], device='meta')
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.relu)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, relu={self.relu}'
