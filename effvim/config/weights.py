"""The weights that a config starts from: fetched, and checked against its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbone import EfficientViM, weights
from backbone.errors import UserError
from backbone.names import difference
from effvim.checkpoints import checkpoint
from effvim.checkpoints.published import SCHEME


def check_variant(cfg: Config, content: Mapping[str, Any], path: str) -> None:
    """Check that a checkpoint's backbone has the shapes of the config's.

    Raises:
        UserError: it is another variant or another network; says which.
    """
    backbone = cfg.model.get('backbone', {})
    if backbone.get('type') != 'EfficientViM':
        return
    state = weights.state_dict_of(content, path, 'backbone')
    own = backbone_tensors(backbone)
    taken, given = (x[weights.STEM].shape[1] if weights.STEM in x else 0 for x in (own, state))
    if given and given != taken:
        raise UserError(
            f'{path} is for images of {given} channels, the config says '
            f'model.backbone.in_channels={taken}: use the config that it was trained with'
        )
    if own.keys() != state.keys() or any(own[n].shape != state[n].shape for n in own):
        raise UserError(
            f'{path} holds {difference(state, own)}, the config says '
            f'arch={backbone.get("arch", "m4")!r}: use the config that it was trained '
            f'with; a file that the authors published goes through '
            f'effvim convert first'
        )


def backbone_tensors(backbone: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict, of shapes without values, of the backbone that a config describes."""
    with torch.device('meta'):
        network = EfficientViM(
            backbone.get('arch', 'm4'),
            backbone.get('out_indices', (0, 1, 2)),
            in_channels=backbone.get('in_channels', 3),
        )
    return network.state_dict()


def fetch_weights(cfg: Config) -> None:
    """Replace the backbone's pretrained weights by a local file; check that it or `load_from` fits.

    Raises:
        UserError: they cannot be had, or are of another variant.
    """
    backbone = cfg.model.backbone
    if str(cfg.get('load_from')).startswith(SCHEME):
        cfg.load_from = str(weights.resolve(cfg.load_from))
    if cfg.get('load_from') and not Path(cfg.load_from).is_file():
        raise UserError(f'load_from: {cfg.load_from} not found')
    if cfg.get('load_from'):
        check_variant(cfg, checkpoint.read(cfg.load_from), cfg.load_from)
        backbone.init_cfg = None  # that file holds all weights
    start = backbone.get('init_cfg')
    if isinstance(start, dict) and start.get('type') == 'Pretrained':
        path = weights.resolve(start.get('checkpoint') or '')
        start['checkpoint'] = str(path)
        if backbone.type == 'EfficientViM':
            tensors = weights.published(path, start.get('prefix', ''), start.get('ema'))
            own = backbone_tensors(backbone)
            weights.fit(own, weights.adapt_channels(own, tensors), path)
