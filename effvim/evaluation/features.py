"""What the backbone computes for one image: feature maps and the weights of hidden states."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbone import EfficientViM


class StageFeatures(NamedTuple):
    """One stage of the backbone, for the first image of a batch.

    Attributes:
        map: C H W, the output of the stage's blocks.
        selection: N H W, A ⊙ B̂ of the HSM-SSD in its last block: the weight with which each
            position enters each hidden state.
    """

    map: np.ndarray
    selection: np.ndarray


def capture_features(
    backbone: EfficientViM, run: Callable[[], Any]
) -> tuple[list[StageFeatures], Any]:
    """Call `run`, which must call the network; returns the stages' features and its result."""
    maps: list[Tensor] = []
    selections: list[Tensor] = []

    def keep_map(_: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        maps.append(output[0][0])

    def keep_selection(mixer: Any) -> Callable[..., None]:
        def hook(_: Any, inputs: Any, normalised: Tensor) -> None:  # the mixer's input
            weights, _ = mixer.selection(normalised[:1].permute(0, 2, 3, 1))  # 1 L N
            selections.append(weights[0].T.unflatten(1, normalised.shape[2:]))

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for stage in backbone.stages:
            last = stage.blocks[-1]
            for handle in (
                stage.register_forward_hook(keep_map),
                last.norm.register_forward_hook(keep_selection(last.mixer)),
            ):
                hooks.callback(handle.remove)
        result = run()
    return [
        StageFeatures(*(values.float().cpu().numpy() for values in pair))
        for pair in zip(maps, selections)
    ], result
