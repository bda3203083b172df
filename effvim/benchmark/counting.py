"""TODO effvim.benchmark.counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """How many numbers a model has, trained or not."""
    return sum(p.numel() for p in model.parameters())


def macs(run: Callable[[], Any]) -> int:
    """Multiply-accumulates of the convolutions and matrix products in `run()`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() // 2
