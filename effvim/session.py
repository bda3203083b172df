"""What a run is, from its command line or from the checkpoint that it left."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbone import EfficientViM, weights
from backbone.errors import UserError
from backbone.names import difference

from . import ade, checkpoint, coco, config, overlays


def overlays_of(args: Namespace) -> list[str]:
    """Names of the overlays that the flags ask for.

    Raises:
        UserError: `--mini` together with `--data-root`.
    """
    if args.mini and args.data_root:
        raise UserError('--mini draws its own data: leave out --data-root, or --mini')
    return ['from_scratch', 'mini'] if args.mini else ['from_scratch'] * args.from_scratch


def describe(args: Namespace, names: Sequence[str]) -> dict[str, Any]:
    """What a run of these flags is; a checkpoint of it says so, see `adopt`."""
    return {
        'format': 1,
        'config': Path(args.config).name,
        'overlays': list(names),
        'data_root': str(Path(args.data_root).absolute()) if args.data_root else None,
        'fitted': {},  # options that `--data` chose, see effvim/data_fit.py
        'options': config.parse_options(args.cfg_options),
        'amp': getattr(args, 'amp', False),
        'auto_scale_lr': getattr(args, 'auto_scale_lr', False),
        'ema': getattr(args, 'ema', False),
        'seed': getattr(args, 'seed', None),
        'skip_bad_batches': getattr(args, 'skip_bad_batches', 0),
        'began': time.strftime('%Y%m%d_%H%M%S'),
    }


def adopt(args: Namespace, content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What a run on this checkpoint is: as it was trained, unless a flag says otherwise.

    A checkpoint that our training did not write says nothing; the flags decide alone.

    Raises:
        UserError: a flag contradicts the checkpoint.
    """
    given = describe(args, overlays_of(args))
    about = checkpoint.describe(content)
    seed = (content.get('meta') or {}).get('seed')
    if not about:
        return {**given, 'seed': seed, 'classes': list(checkpoint.classes_of(content))}
    for name, flag in (('mini', '--mini'), ('from_scratch', '--from-scratch')):
        if name in given['overlays'] and name not in about['overlays']:
            raise UserError(f'{path} was trained without {flag}: leave the flag out')
    for name, flag in (('amp', '--amp'), ('auto_scale_lr', '--auto-scale-lr'), ('ema', '--ema')):
        if given[name] and not about.get(name):
            raise UserError(f'{path} was trained without {flag}: leave the flag out')
    asked = (given['seed'], given['options'].get('randomness.seed'))
    if any(number not in (None, seed) for number in asked):
        raise UserError(f'{path} was trained with seed {seed}: go on without another one')
    if 'mini' in about['overlays'] and given['data_root']:
        raise UserError(f'{path} was trained on the embedded data set: leave out --data-root')
    return {
        **given,
        **about,
        'seed': seed,
        'skip_bad_batches': given['skip_bad_batches'] or about.get('skip_bad_batches', 0),
        'data_root': given['data_root'] or about['data_root'],
        'options': {**about['options'], **given['options']},
    }


def apply(cfg: Config, about: Mapping[str, Any], draw: bool = True) -> None:
    """Make `cfg` the config of the run that `about` describes.

    draw: see that the embedded data set is on disk, if the run is on it.
    """
    overlays.apply(cfg, about['overlays'], draw)
    if about['data_root']:
        config.set_data_root(cfg, about['data_root'])
    cfg.merge_from_dict(dict(about['fitted']))
    config.apply_options(cfg, about['options'])
    if 'test_pipeline' in cfg:  # mmseg's inference_model reads the variable
        cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline


def check_data(cfg: Config, about: dict[str, Any], loaders: Sequence[Any]) -> None:
    """Check the data on disk and settle the classes, in `cfg` and `about`.

    Raises:
        UserError: as `check_all` of `ade` or `coco`, or the data has other classes than the
            checkpoint.
    """
    with config.no_collection():
        classes = (ade if config.is_segmentor(cfg) else coco).check_all(loaders)
    trained = tuple(about.get('classes') or ())
    if trained and trained != classes:
        raise UserError(f'the checkpoint was trained for {len(trained)} classes ('
                        f'{", ".join(trained[:5])}…), the data has {len(classes)} ('
                        f'{", ".join(classes[:5])}…): use data of the same classes; to fine-tune '
                        f'on others start a new run with --cfg-options load_from=CHECKPOINT')
    about['classes'] = list(classes)
    config.set_classes(cfg, classes)


def check_variant(cfg: Config, content: Mapping[str, Any], path: str) -> None:
    """See whether a checkpoint's backbone has the shapes of the config's.

    Raises:
        UserError: it has not; says which variant it is.
    """
    backbone = cfg.model.get('backbone', {})
    if backbone.get('type') != 'EfficientViM':
        return
    state = weights.state_dict_of(content, path, 'backbone')
    own = backbone_tensors(backbone)
    if own.keys() != state.keys() or any(own[n].shape != state[n].shape for n in own):
        raise UserError(f'{path} holds {difference(state, own)}, the config says '
                        f'arch={backbone.get("arch", "m4")!r}: use the config that it was trained '
                        f'with; a file that the authors published goes through '
                        f'tools/convert_weights.py first')


def backbone_tensors(backbone: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict, of shapes without values, of the backbone that a config describes."""
    with torch.device('meta'):
        network = EfficientViM(backbone.get('arch', 'm4'), backbone.get('out_indices', (0, 1, 2)))
    return network.state_dict()


def fetch_weights(cfg: Config) -> None:
    """Turn the backbone's pretrained weights into a local file; see that it or `load_from` fits.

    Raises:
        UserError: they cannot be had, or are of another variant.
    """
    backbone = cfg.model.backbone
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
            weights.fit(backbone_tensors(backbone), tensors, path)
