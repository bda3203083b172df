"""Checks of the optimizer's config, and a summary of the weight decay."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from mmengine.registry import OPTIMIZERS
from torch import nn

from backbone.errors import UserError

# What mmengine's default constructor reads; it ignores everything else.
PARAMWISE = {
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'flat_decay_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
}

CONSTRUCTORS = {
    'DefaultOptimWrapperConstructor': PARAMWISE,
    'EffViMLayerDecay': PARAMWISE | {'decay_rate'},
}


def check_type(optim_wrapper: Mapping[str, Any]) -> None:
    """Check that there is an optimizer of the type in the config.

    Raises:
        UserError: there is none.
    """
    kind = (optim_wrapper.get('optimizer') or {}).get('type')
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:  # as mmengine builds them
        known = not isinstance(kind, str) or registry.get(kind) is not None
    if not known:
        raise UserError(
            f'optim_wrapper.optimizer.type={kind} is not in the registry of optimizers: correct '
            f'it, or import the module that registers it by custom_imports'
        )


def check_keys(optim_wrapper: Mapping[str, Any]) -> None:
    """Check that the constructor of the optimizer reads every key of `paramwise_cfg`.

    Raises:
        UserError: it would ignore one.
    """
    name = optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    for key in (optim_wrapper.get('paramwise_cfg') or {}) if name in CONSTRUCTORS else ():
        if key not in CONSTRUCTORS[name]:
            near = difflib.get_close_matches(key, CONSTRUCTORS[name], n=1, cutoff=0)
            raise UserError(
                f'optim_wrapper.paramwise_cfg: {name} knows no {key!r}; the nearest is {near[0]!r}'
            )


def check_custom_keys(model: nn.Module, optim_wrapper: Mapping[str, Any]) -> None:
    """Check that each of `paramwise_cfg.custom_keys` occurs in the name of a trained parameter.

    Raises:
        UserError: one does not, and would change nothing.
    """
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for key in (optim_wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}:
        if not any(key in name for name in trained):
            near = difflib.get_close_matches(key, trained, n=1, cutoff=0)
            raise UserError(
                f'optim_wrapper.paramwise_cfg.custom_keys: {key!r} occurs in no '
                f"trained parameter's name; the nearest is {near[0]!r}"
            )


def weight_decay(model: nn.Module, groups: list[dict[str, Any]]) -> str:
    """How strongly which trained parameters decay, in one line.

    Args:
        model: the model whose parameters are trained.
        groups: the optimizer's parameter groups.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays: dict[float, list[nn.Parameter]] = {}
    for group in groups:
        trained = [p for p in group['params'] if p.requires_grad]
        decays.setdefault(group.get('weight_decay', 0), []).extend(trained)
    largest, *others = sorted(decays, key=lambda decay: -_count(decays[decay]))
    total = sum(map(_count, decays.values()))
    if not others:
        return f'weight decay {largest:g} on all {total:,} trained parameters'
    clauses = [
        f'weight decay {largest:g} on {_count(decays[largest]):,} of {total:,} trained parameters'
    ]
    for decay in others:
        kinds = list(dict.fromkeys(re.sub(r'\d+', '*', names[p]) for p in decays[decay]))
        some = ', '.join(kinds[:5]) + (f' … ({len(kinds)} kinds)' if len(kinds) > 5 else '')
        clauses.append(f'{decay:g} on {_count(decays[decay]):,}: {some}')
    return '; '.join(clauses)


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
