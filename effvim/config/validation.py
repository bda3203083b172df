"""Errors of a config that show before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.structure import EVALUATORS, LOADERS, value_at

if TYPE_CHECKING:
    from backbone import FeatureInfo

PARTS = ('model', 'optim_wrapper', 'train_cfg', 'default_hooks', *LOADERS, *EVALUATORS)

# What a loader and its dataset need, in addition to what their own classes check.
LOADER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'batch_size': (
        lambda value: value is None or (type(value) is int and value > 0),
        'a whole number from 1',
    ),
    'num_workers': (lambda value: type(value) is int and value >= 0, 'a whole number from 0'),
    'dataset.data_root': (lambda value: isinstance(value, str | None), 'the name of a folder'),
    'dataset.ann_file': (lambda value: isinstance(value, str | None), 'the name of a file'),
    'dataset.data_prefix': (lambda value: isinstance(value, dict), 'names of folders by key'),
    'dataset.pipeline': (lambda value: isinstance(value, list), 'a list of transforms'),
}


def check_parts(cfg: Config, where: str) -> None:
    """Check the types of what every command reads of a config.

    Raises:
        UserError: a value has another type; names `where` it is from.
    """
    for key in (*PARTS, 'model.backbone', *(f'{loader}.dataset' for loader in LOADERS)):
        if not isinstance(value_at(cfg, key), dict):
            raise UserError(f'{where}: {key} must be a dict')
    if not isinstance(value_at(cfg, 'model.neck'), dict | None):
        raise UserError(f'{where}: model.neck must be a dict')
    for loader in LOADERS:
        for key, (fits, meant) in LOADER_FIELDS.items():
            value = value_at(cfg, f'{loader}.{key}')
            if not fits(value):
                raise UserError(f'{where}: {loader}.{key} must be {meant}, got {value!r}')
    load_from = cfg.get('load_from')
    if load_from is not None and not isinstance(load_from, str):
        raise UserError(f'{where}: load_from must be the name of a file, got {load_from!r}')


def maps_of(backbone: Mapping[str, Any]) -> tuple[FeatureInfo, ...]:
    """Channels and strides of the maps of an EfficientViM that a config describes.

    Raises:
        UserError: an argument is out of range.
    """
    from backbone import feature_info

    arguments = ('arch', 'out_indices', 'out_stem')
    return feature_info(**{key: backbone[key] for key in arguments if key in backbone})


def check_model(cfg: Config) -> None:
    """Check the arguments of the model against each other, without building it.

    Raises:
        UserError: unknown arch, out_indices out of range, a neck that does not fit the backbone.
    """
    import inspect

    from backbone import EfficientViM

    backbone, neck = cfg.model.backbone, cfg.model.get('neck')
    if backbone.get('type') != 'EfficientViM':
        return
    known = {*inspect.signature(EfficientViM).parameters, 'type', 'init_cfg'}
    if backbone.keys() - known:
        raise UserError(
            f'model.backbone has no argument {sorted(backbone.keys() - known)[0]!r}; '
            f'it has {", ".join(sorted(known))}'
        )
    info = maps_of(backbone)
    channels = [i.channels for i in info]
    wanted = neck.get('in_channels', channels) if neck else channels
    if not isinstance(wanted, (list, tuple)) or list(wanted) != channels:
        raise UserError(
            f'model.neck.in_channels is {wanted}, but the backbone '
            f'arch={backbone.get("arch", "m4")!r} gives maps of {channels} channels '
            f'at strides {[i.stride for i in info]}: set model.neck.in_channels'
        )
