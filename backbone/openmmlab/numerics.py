"""What the stand-in's operators share: the type to compute in, gradients by autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> torch.dtype:
    """Return the type to compute in: the widest of the tensors', float32 at least."""
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `function(*inputs)` with respect to each input, in its type.

    Args:
        function: differentiable; is run again.
        inputs: any shapes and floating types.
        grad_output: the gradient that arrives, in the shape of the function's result.

    Returns:
        One tensor per input; zeros where the result does not depend on it.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        output = function(*leaves)
        if not output.requires_grad:  # e.g. of no RoIs
            return tuple(torch.zeros_like(x) for x in inputs)
        return torch.autograd.grad(
            output,
            leaves,
            grad_output.to(output.dtype),
            allow_unused=True,
            materialize_grads=True,
        )
