"""TODO effvim.cli.test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effvim.cli.options import config_parser
from effvim.engine import distributed

if TYPE_CHECKING:
    from argparse import Namespace

from effvim.engine.testing import prepare, run


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser('tools/test.py', 'Evaluate a checkpoint or an exported file.')
    parser.add_argument(
        'checkpoint', help='the checkpoint, or *.onnx of tools/export.py; it knows its training'
    )
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this JSON file')
    parser.add_argument('--show-dir', metavar='DIR', help='save predictions beside the truth')
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='write a page of plots, predictions and mistakes, one file to open from disk',
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help='fold BN layers and gates into the convolutions first: the same metrics, faster',
    )
    parser.add_argument(  # a checkpoint remembers `amp`, that of its training
        '--amp',
        dest='narrow',
        action='store_true',
        help='mixed precision inside backbone, neck and heads',
    )
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation, as tta_pipeline says'
    )
    parser.add_argument(
        '--raw', action='store_true', help='of a run with --ema, the raw weights, not the average'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says.

    Raises:
        UserError: a mistake in it, in the config, the data or the checkpoint.
    """
    args = parse(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    distributed.read_environment(args.launcher)
    cfg, about = prepare(args)
    with distributed.joined(args.launcher, **cfg.env_cfg.get('dist_cfg', {})):
        run(args, cfg, about)
