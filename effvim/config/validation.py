"""Errors of a config that show before anything is built."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.run_spec import LARGEST_SEED
from effvim.config.structure import EVALUATORS, LOADERS, kind_of, pad_divisor, value_at

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


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and isfinite(value)


# Numbers of the training, None where a config does not set them.
NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            'train_cfg.max_epochs',
            'train_cfg.max_iters',
            'train_cfg.val_interval',
            'optim_wrapper.accumulative_counts',
        ),
        (lambda value: _is_number(value) and value == int(value) > 0, 'a whole number from 1'),
    ),
    'optim_wrapper.optimizer.lr': (
        lambda value: _is_number(value) and value >= 0,
        'a number from 0',
    ),
    'randomness.seed': (
        lambda value: type(value) is int and 0 <= value <= LARGEST_SEED,
        f'a whole number from 0 to {LARGEST_SEED}',
    ),
}

# Necks that double maps and join them with finer ones, without cutting.
DOUBLING = ('CSPNeXtPAFPN', 'YOLOXPAFPN')

# Where heads say the strides of the maps that they take.
HEAD_STRIDES = (
    'model.bbox_head.strides',
    'model.bbox_head.anchor_generator.strides',
    'model.rpn_head.strides',
    'model.rpn_head.anchor_generator.strides',
)


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
    for key, (fits, meant) in NUMBERS.items():
        value = value_at(cfg, key)
        if value is not None and not fits(value):
            raise UserError(f'{where}: {key} must be {meant}, got {value!r}')
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
        UserError: unknown arch, out_indices out of range, a neck that does not fit the backbone, a
            head that does not fit the neck, sizes of images that the neck does not take.
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
    given = list(wanted) if isinstance(wanted, (list, tuple)) else wanted
    if given != channels:
        remedy = 'set model.neck.in_channels'
        if backbone.get('out_stem') and given == channels[1:]:
            remedy += ', or model.backbone.out_stem=False'
        raise UserError(
            f'model.neck.in_channels is {wanted}, but the backbone '
            f'arch={backbone.get("arch", "m4")!r} gives maps of {channels} channels '
            f'at strides {[i.stride for i in info]}: {remedy}'
        )
    levels = neck_strides(neck, [i.stride for i in info])
    for key in HEAD_STRIDES:
        strides = value_at(cfg, key)
        if levels and isinstance(strides, (list, tuple)) and list(strides) != levels:
            raise UserError(
                f'{key} is {list(strides)}, but the head gets maps of strides {levels}: change it, '
                f'or num_transposed and num_outs of the neck, or out_indices and out_stem of the '
                f'backbone'
            )
    if not neck:
        for key in ('decode_head', 'auxiliary_head'):
            heads = cfg.model.get(key) or []
            for head in heads if isinstance(heads, list) else [heads]:
                check_segmentation_head(head, f'model.{key}', channels)
    elif kind_of(neck) in DOUBLING:
        check_doubling(cfg, info[-1].stride)


def neck_strides(neck: Any, strides: list[int]) -> list[int] | None:
    """Strides of the maps that a head gets, None where the neck is not known here.

    Args:
        neck: its config, None if there is none.
        strides: of the maps of the backbone.
    """
    if not neck or kind_of(neck) in DOUBLING:
        return strides
    if kind_of(neck) != 'EfficientViMFPN':
        return None
    finer = neck.get('num_transposed', 1)
    coarser = neck.get('num_outs', 5) - len(strides) - finer
    return [
        *(strides[0] // 2**i for i in range(finer, 0, -1)),
        *strides,
        *(strides[-1] * 2 ** (i + 1) for i in range(coarser)),
    ]


def check_segmentation_head(head: Any, key: str, channels: list[int]) -> None:
    """Check that the maps of a head without a neck have the channels that it takes.

    Raises:
        UserError: they do not.
    """
    chosen, wanted = head.get('in_index', -1), head.get('in_channels')
    indices = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    wanted = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    given = [channels[i] for i in indices if -len(channels) <= i < len(channels)]
    if given != wanted:
        raise UserError(
            f'{key} takes maps in_index={chosen} of {wanted} channels, but the backbone gives '
            f'maps of {channels} channels: set in_index and in_channels'
        )


def check_doubling(cfg: Config, coarsest: int) -> None:
    """Check that a neck that doubles maps gets images of sizes that halve evenly.

    Args:
        cfg: the config.
        coarsest: the largest stride of the backbone's maps.

    Raises:
        UserError: it does not.
    """
    padded = [
        side
        for step in cfg.test_dataloader.dataset.pipeline
        if kind_of(step) == 'Pad'
        for side in np.ravel(step.get('size') or [])
    ]
    if pad_divisor(cfg) % coarsest and (not padded or any(side % coarsest for side in padded)):
        raise UserError(
            f'model.neck {cfg.model.neck.type} takes images whose sides are multiples of '
            f'{coarsest}: set model.data_preprocessor.pad_size_divisor={coarsest}'
        )
    for i, augment in enumerate(value_at(cfg, 'model.data_preprocessor.batch_augments') or []):
        if kind_of(augment) == 'BatchSyncRandomResize' and (
            augment.get('size_divisor', 32) % coarsest
        ):
            raise UserError(
                f'model.neck {cfg.model.neck.type} takes images whose sides are multiples of '
                f'{coarsest}: set size_divisor={coarsest} in '
                f'model.data_preprocessor.batch_augments.{i}'
            )
