"""Parameters and multiply-accumulates of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """The number of parameters of a model, trainable or frozen."""
    return sum(p.numel() for p in model.parameters())


def count_macs(run: Callable[[], Any]) -> int:
    """Multiply-accumulates of the convolutions and matrix products in `run()`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() // 2
