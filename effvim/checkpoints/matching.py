"""TODO effvim.checkpoints.matching."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from backbone.errors import UserError
from effvim.config.classes import class_layers
from effvim.engine.hooks import guard_hook as _guards  # noqa: F401  # noqa: F401  registers its hook


def fit_state_dict(
    model: Any, state: Mapping[str, Any], filename: str, cfg: Config | None = None
) -> dict[str, Any]:
    """`state` with exactly the tensors of `model`.

    cfg: that of the model, if `state` may be of other classes; of tensors whose size depends on
    their number, and is another one, the model's own are taken.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    strange = [name for name in state if name not in own]
    differ = [name for name in own if name in state and own[name].shape != state[name].shape]
    of_classes = class_layers(cfg, own) if differ and cfg else set()
    left = [name for name in differ if name in of_classes]
    differ = [name for name in differ if name not in left]
    if differ:
        name = differ[0]
        raise UserError(
            f'{filename} is of another variant: {len(differ)} tensors differ in shape, the first '
            f'{name}, {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the '
            f"config's model: use the config it was trained with"
        )
    if missing or strange:
        first = (missing or strange)[0]
        raise UserError(
            f"{filename} does not fit the config's model: {len(missing)} tensors missing, "
            f'{len(strange)} left over, the first {first}: use the config it was trained with'
        )
    if left:
        print_log(
            f'{filename}: other classes; kept at their random start: {", ".join(left)}',
            logger='current',
            level=logging.WARNING,
        )
    return {**state, **{name: own[name] for name in left}}
