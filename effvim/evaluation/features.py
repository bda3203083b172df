"""What the backbone makes of one picture: its maps, and what its hidden states take in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbone import EfficientViM


class Stage(NamedTuple):
    """One stage, of the first picture of a batch.

    map: C H W, what the stage's blocks give. taken: N H W, A ⊙ B̂ of its last block's HSM-SSD: the
    weight at which each position enters each hidden state.
    """

    map: np.ndarray
    taken: np.ndarray


def look_inside(backbone: EfficientViM, run: Callable[[], Any]) -> tuple[list[Stage], Any]:
    """The stages as `run`, which calls the network, goes through them; and what it returns."""
    maps: list[Tensor] = []
    taken: list[Tensor] = []

    def keep_map(_: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        maps.append(output[0][0])

    def keep_selection(mixer: Any) -> Callable[..., None]:
        def hook(_: Any, inputs: Any, normalised: Tensor) -> None:  # what the mixer reads
            weights, _ = mixer.selection(normalised[:1].permute(0, 2, 3, 1))  # 1 L N
            taken.append(weights[0].T.unflatten(1, normalised.shape[2:]))

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
    arrays: Iterator[list[np.ndarray]] = (
        [part.float().cpu().numpy() for part in pair] for pair in zip(maps, taken)
    )
    return [Stage(*pair) for pair in arrays], result
