"""What `torch.jit.script` makes of the networks: their folded form, for inference."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import UserError

if TYPE_CHECKING:
    from .efficientvim import EfficientViM


class ScriptableFeatures(nn.Module):
    """A folded `EfficientViM`, whose maps are a list: TorchScript has no tuples of any length."""

    def __init__(self, network: EfficientViM) -> None:
        super().__init__()
        self.patch_embed, self.stages = network.patch_embed, network.stages
        self.out_indices, self.out_stem = list(network.out_indices), network.out_stem

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.device.type == 'cpu':
            x = x.contiguous(memory_format=torch.channels_last)
        finer, x = self.patch_embed(x)
        maps = [finer] if self.out_stem else []
        for i, stage in enumerate(self.stages):
            stage_map, x, _ = stage(x)
            if i in self.out_indices:
                maps.append(stage_map)
        return maps


class ScriptableClassifier(nn.Module):
    """A folded `EfficientViMClassifier`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.patch_embed, self.stages = network.patch_embed, network.stages
        self.norm, self.heads = network.norm, network.heads
        self.weights, self.num_classes = network.weights, network.num_classes

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == 'cpu':
            x = x.contiguous(memory_format=torch.channels_last)
        _, x = self.patch_embed(x)
        tokens = []
        for stage in self.stages:
            _, x, h = stage(x)
            tokens.append(h)
        tokens.append(x.flatten(2))
        shares = self.weights.softmax(0)
        pooled = []
        for i, (norm, head) in enumerate(zip(self.norm, self.heads)):
            mean = head(norm(tokens[i].transpose(1, 2)).mean(1))
            pooled.append(shares[i] * mean if self.num_classes > 0 else mean)
        if self.num_classes == 0:
            return torch.cat(pooled, 1)
        return torch.stack(pooled).sum(0)


def scriptable(network: EfficientViM) -> nn.Module:
    """Return a folded copy of a network that `torch.jit.script` can compile.

    Raises:
        UserError: the network is in training mode.
    """
    if network.training:
        raise UserError('torch.jit.script is offered for inference: call eval() first')
    kind = ScriptableClassifier if hasattr(network, 'heads') else ScriptableFeatures
    return kind(copy.deepcopy(network).fuse())
