"""TODO effvim.cli.train."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError
from effvim.cli.options import config_parser
from effvim.engine import distributed

if TYPE_CHECKING:
    from argparse import Namespace

from effvim.engine.training import prepare, run


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser('tools/train.py', 'Train a detector or segmentor.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CKPT',
        help='go on from this checkpoint; without a name from the latest in the work dir',
    )
    parser.add_argument(
        '--seed', type=int, metavar='N', help="of all random numbers, instead of the config's"
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='average the weights; validation measures the average, checkpoints hold both',
    )
    parser.add_argument(
        '--skip-bad-batches',
        type=int,
        metavar='N',
        default=0,
        help='leave out up to N batches whose loss or gradient is not finite, instead of ending',
    )
    parser.add_argument(
        '--tensorboard', action='store_true', help='write logs for TensorBoard as well'
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='two iterations of everything: train, save, evaluate, resume; says what the whole run '
        'would take, keeps nothing',
    )
    parser.add_argument(
        '--data',
        metavar='DIR',
        help='train on this, as written by effvim data split: schedule, picture size and anchors '
        'as it needs, and a report at the end',
    )
    parser.add_argument(
        '--epochs', type=int, metavar='N', help='with --data: instead of by the number of pictures'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Raises:
        UserError: a mistake in it, in the config, the data or the weights.
    """
    args = parse(argv)
    if args.dry_run:
        from effvim.checks.dry_run import rehearse

        rehearse(args)
        return
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    distributed.read_environment(args.launcher)
    cfg, about = prepare(args)

    from effvim.engine import lock

    with (
        distributed.joined(args.launcher, **cfg.env_cfg.get('dist_cfg', {})),
        lock.held(Path(cfg.work_dir)),
    ):
        try:
            run(cfg, about)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f'{cfg.work_dir}: {error.strerror}: nothing that was there is lost; '
                f'free some, then go on with --resume'
            ) from error
    if about['fitted'] and args.launcher == 'none':
        from effvim.checkpoints import checkpoint
        from effvim.cli import test

        folder = Path(cfg.work_dir)
        test.main(
            [
                args.config,
                str(checkpoint.find_latest(folder)),
                '--work-dir',
                str(folder),
                '--out',
                str(folder / 'metrics.json'),
                '--report',
                str(folder / 'report'),
            ]
        )
