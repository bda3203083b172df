"""Names and shapes of the tensors that published weights must have: those of the built network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from backbone import EfficientViMClassifier
from backbone.errors import UserError
from effvim.checkpoints.published import PublishedWeights
from effvim.console import quiet
from effvim.resources import CONFIGS

Shapes = Mapping[str, tuple[int, ...]]


def expected_shapes(weights: PublishedWeights) -> Shapes:
    """Shapes by name of the network that published weights are for, which is built without data."""
    with torch.device('meta'):
        if weights.config is None:
            _, arch, kind, *_ = weights.name.split('_')
            network: torch.nn.Module = EfficientViMClassifier(arch, distillation=kind == 'dist')
        else:
            network = _model(weights.config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _model(config: str) -> torch.nn.Module:
    """The detector or segmentor of a packaged config."""
    with quiet():
        cfg = Config.fromfile(CONFIGS / f'{config}.py')
        scope = cfg.default_scope
        importlib.import_module(f'{scope}.models')
        cfg.model.backbone.init_cfg = None
        with DefaultScope.overwrite_default_scope(scope):
            return importlib.import_module(f'{scope}.registry').MODELS.build(cfg.model)


def check_shapes(weights: PublishedWeights, path: Path, origin: str) -> None:
    """Check that a converted file has exactly the tensors of the network.

    Args:
        weights: what it should be.
        path: the converted file.
        origin: where it is from, for messages.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    own = expected_shapes(weights)
    with safetensors.safe_open(path, 'pt') as file:
        given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in {**own, **given}:
        if own.get(name) != given.get(name):
            raise UserError(
                f'{origin} does not hold {weights.name}: {name} is '
                f'{given.get(name, "missing")} in it and {own.get(name, "absent")} in the network'
            )
