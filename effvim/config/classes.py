"""Which layers of a model depend on the number of classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from effvim.config.structure import parts_with_classes


def class_layers(cfg: Config, own: Mapping[str, Any]) -> set[str]:
    """Names of the tensors of a config's model whose shape depends on the number of classes.

    Args:
        cfg: the config.
        own: the model's state dict.
    """
    more = copy.deepcopy(cfg.model)
    for part in parts_with_classes(more):
        part['num_classes'] += 1000  # many: a layer may be as wide as classes and features are
    # not without storage, for which some heads and backbones cannot be built
    with torch.random.fork_rng(devices=[]):
        other = MODELS.build(more).state_dict()
    return {name for name in own if name in other and own[name].shape != other[name].shape}
