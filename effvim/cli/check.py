"""`effvim check`: check the environment, a dataset and weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from backbone.errors import UserError
from effvim.cli.options import (
    CONFIG,
    add_cfg_options,
    add_data_root,
    add_launcher,
    add_presets,
    add_work_dir,
    existing_config,
)

HELP = (
    'check the environment and, with a CONFIG, its dataset, its weights, and the memory and time '
    'of training; exit status 0: fine, 1: something is wrong, 2: wrong arguments'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', nargs='?', help=CONFIG)
    parser.add_argument('--out', metavar='FILE', help='write the report to this JSON file')
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='processes that decode images, 0 for this one alone (default: one per core)',
    )
    parser.add_argument(
        '--quick', action='store_true', help='decode no images and measure no training steps'
    )
    add_presets(parser)
    add_data_root(parser)
    add_work_dir(parser)
    add_launcher(parser, refused=True)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print the report; returns the exit status, 1 if something is wrong."""
    if args.workers is not None and not 0 <= args.workers <= 256:
        raise UserError(f'--workers takes a number from 0 to 256, got {args.workers}')
    if args.launcher != 'none':
        raise UserError('--launcher: a check is one process: drop the flag')
    if not args.config and (args.mini or args.from_scratch or args.data_root or args.cfg_options):
        raise UserError(
            '--mini, --from-scratch, --data-root and --cfg-options need a CONFIG: pass one, e.g. '
            'retinanet_effvim_m4'
        )
    config = existing_config(args.config) if args.config else None
    if args.data_root and not Path(args.data_root).is_dir():
        raise UserError(
            f'--data-root {args.data_root} is not a directory: pass the root of the dataset'
        )
    if args.out and Path(args.out).is_dir():
        raise UserError(f'--out {args.out} is a directory: pass the name of a file')

    from effvim.checks.checking import check
    from effvim.config.editing import parse_options
    from effvim.config.run_spec import RunSpec
    from effvim.files import ensure_writable, write_atomic

    if args.out:
        ensure_writable(Path(args.out).parent, '--out')
    asked = RunSpec.asked(
        config,
        mini=args.mini,
        from_scratch=args.from_scratch,
        data_root=args.data_root,
        options=parse_options(args.cfg_options),
    )
    report = check(
        config,
        asked,
        work_dir=args.work_dir or 'work_dirs',
        workers=args.workers,
        quick=args.quick,
    )
    print(report.text())
    if args.out:
        content = json.dumps(report.content(), indent=2, ensure_ascii=False)
        write_atomic(args.out, f'{content}\n'.encode())
        print(f'report: {args.out}')
    return report.status
