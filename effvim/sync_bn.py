"""SyncBN on a CPU, for which torch has no kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SumOfAll(torch.autograd.Function):
    """The sum of every process's tensor; each adds its share to the loss, hence to the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.clone()
        torch.distributed.all_reduce(total)
        return total


class CPUSyncBN(nn.BatchNorm2d):
    """torch's `SyncBatchNorm` from plain operations: in training, statistics of all processes."""

    momentum: float
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        sums = values.sum((0, 2, 3))  # x: B C H W
        count = sums.new_tensor([x.numel() / x.shape[1]])
        sums, count = SumOfAll.apply(torch.cat([sums, count])).split([x.shape[1], 1])
        mean = sums / count
        centred = values - mean[:, None, None]
        variance = SumOfAll.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def on_cpu(model: nn.Module) -> nn.Module:
    """Let every SyncBN in `model` run on a CPU, with the tensors that it has; returns `model`."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = CPUSyncBN
    return model
