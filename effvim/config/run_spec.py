"""TODO effvim.config.run_spec."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.checkpoints import checkpoint
from effvim.config.editing import parse_options


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
        'options': parse_options(args.cfg_options),
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
