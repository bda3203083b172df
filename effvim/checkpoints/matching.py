"""State dicts that must fit a model exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from typing import Any

from mmengine.logging import print_log

from backbone.errors import UserError


def fit_state_dict(
    model: Any,
    state: Mapping[str, Any],
    filename: str,
    class_layers: Callable[[Mapping[str, Any]], Container[str]] | None = None,
) -> dict[str, Any]:
    """Return `state` with exactly the tensors of `model`.

    Args:
        model: the module to be loaded.
        state: its state dict, with or without 'module.' in front of names.
        filename: where `state` is from, for messages.
        class_layers: given if `state` may be of other classes: called with the model's state dict
            it returns the names of tensors whose shape depends on the number of classes. Of these
            the model's own are kept where the shapes differ, and listed in the log.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    differ = [name for name in own if name in state and own[name].shape != state[name].shape]
    of_classes = class_layers(own) if differ and class_layers else ()
    kept = [name for name in differ if name in of_classes]
    differ = [name for name in differ if name not in kept]
    if differ:
        name = differ[0]
        raise UserError(
            f'{filename} is of another variant: {len(differ)} tensors differ in shape, the first '
            f'{name}, {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the '
            f"config's model: use the config it was trained with, with --from-scratch if it was "
            f'trained so'
        )
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise UserError(
            f"{filename} does not fit the config's model: {len(missing)} tensors missing, "
            f'{len(unexpected)} unexpected, the first {first}: use the config it was trained with, '
            f'with --from-scratch if it was trained so'
        )
    if kept:
        print_log(
            f'{filename}: other classes; randomly initialised: {", ".join(kept)}',
            logger='current',
            level=logging.WARNING,
        )
    return {**state, **{name: own[name] for name in kept}}
