"""Rename the tensors of published checkpoints to our names, and tell which network they are.

The authors' backbone and classifier have our names, with LayerNorm weights of shape (1, C, 1) or
(1, C, 1, 1); timm's have our shapes too. The authors' detectors call the LayerNorms of the neck
`batch_norm`; its other tensors have our names and our order. Heads, and the segmentors' neck, have
the names of mmdet and mmseg, which are the same in mmdet 2 and 3 and in mmseg 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .efficientvim import ARCHS

CLASSIFIER = re.compile(r'(weights|weights_dist|norm\.\d|heads\.\d|heads_dist\.\d)(\.|$)')
LAYER_NORM = re.compile(
    r'((backbone\.)?(stages\.\d+\.blocks\.\d+\.norm|norm\.\d)|neck\.norms\.\d)\.(weight|bias)'
)
NECK_NORM = re.compile(r'^neck\.batch_norm\.')
# one tensor of each block, as long as its number of hidden states
STATES = re.compile(r'stages\.(\d+)\.blocks\.\d+\.mixer\.A')


class Translation(NamedTuple):
    """Tensors under our names, and what was changed."""

    tensors: dict[str, Tensor]
    renamed: dict[str, str]  # published name to ours
    reshaped: list[str]  # LayerNorm weights, now (C,)
    added: list[str]  # BN's batch counters, which no output depends on
    dropped: list[str]  # the classifier's, which no detector or segmentor has


def translate(tensors: Mapping[str, Tensor]) -> Translation:
    """Rename and reshape published tensors to ours; ours are returned unchanged.

    `tensors`: those of a backbone or classifier, or of a whole detector or segmentor.
    """
    translation = Translation({}, {}, [], [], [])
    for name, value in tensors.items():
        if name.startswith('backbone.') and CLASSIFIER.match(name.removeprefix('backbone.')):
            translation.dropped.append(name)
            continue
        ours = NECK_NORM.sub('neck.norms.', name) if value.ndim == 4 else name  # a BN's is (C,)
        if ours != name:
            translation.renamed[name] = ours
        if LAYER_NORM.fullmatch(ours) and value.ndim > 1:
            value = value.flatten()
            translation.reshaped.append(ours)
        translation.tensors[ours] = value
        counter = f'{ours.removesuffix("running_mean")}num_batches_tracked'
        if ours.endswith('.running_mean') and counter not in tensors:
            translation.tensors[counter] = torch.tensor(0)
            translation.added.append(counter)
    return translation


def arch_of(tensors: Mapping[str, Tensor]) -> str | dict[str, tuple[int, ...]] | None:
    """Infer the `arch` of the backbone that tensors belong to from the sizes of its blocks.

    A name of `ARCHS` (the last stages may be absent), otherwise a dict of numbers; None if the
    tensors are of another network.
    """
    sizes: dict[int, list[int]] = {}  # N of the blocks, by stage
    for name, value in tensors.items():
        if match := STATES.fullmatch(name):
            sizes.setdefault(int(match[1]), []).append(value.numel())
    stages = range(len(sizes))
    gates = [f'stages.{i}.blocks.0.alpha' for i in stages]
    if not sizes or sorted(sizes) != list(stages) or any(name not in tensors for name in gates):
        return None
    inferred = dict(
        widths=tuple(tensors[name].numel() // 4 for name in gates),
        depths=tuple(len(sizes[i]) for i in stages),
        state_dims=tuple(sizes[i][0] for i in stages),
    )
    named = (
        n for n, arch in ARCHS.items() if all(arch[k][: len(sizes)] == inferred[k] for k in arch)
    )
    return next(named, inferred)


def difference(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Say what `tensors` are, given that they do not fit a backbone whose tensors are `own`."""
    arch = arch_of(tensors)
    if arch is None:
        return 'another network'
    if arch == arch_of(own):
        return f'{arch} in other names or shapes'
    return f'another variant, {arch}'
