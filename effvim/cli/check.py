"""TODO effvim.cli.check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError
from effvim.cli.options import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

from effvim.checks.checking import examine, prepare


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser(
        'tools/check.py',
        'Check the environment, and with a CONFIG its data set, its weights and what training '
        'would take. Exit status: 0 fine, 1 something is wrong, 2 a mistake in the call.',
        optional=True,
    )
    parser.add_argument('--out', metavar='FILE', help='write the report to this JSON file')
    parser.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='processes that decode pictures, 0 for none beside this one; default: one a core',
    )
    parser.add_argument(
        '--quick', action='store_true', help='decode no pictures and measure no steps'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line says, print the report; returns the exit status, 0 or 1.

    Raises:
        UserError: a mistake in the command line or in the config.
    """
    args = parse(argv)
    if args.workers is not None and not 0 <= args.workers <= 256:
        raise UserError(f'--workers takes a number from 0 to 256, got {args.workers}')
    if args.launcher != 'none':
        raise UserError('--launcher: a check is one process: leave the flag out')
    if not args.config and (args.mini or args.from_scratch or args.data_root or args.cfg_options):
        raise UserError(
            '--mini, --from-scratch, --data-root and --cfg-options belong to a '
            'CONFIG: name one, e.g. configs/retinanet_effvim_m4.py'
        )
    if args.data_root and not Path(args.data_root).is_dir():
        raise UserError(
            f'--data-root {args.data_root} is not a folder: point it to where the data lies'
        )

    from effvim.checks import environment
    from effvim.checks.findings import Report
    from effvim.files import ensure_writable

    if args.out:
        if Path(args.out).is_dir():
            raise UserError(f'--out {args.out} is a folder: name a file')
        ensure_writable(Path(args.out).parent, '--out')
    cfg, about = prepare(args) if args.config else (None, {})
    report = Report()
    environment.examine(report, Path(args.work_dir or 'work_dirs'))
    if cfg is not None:
        examine(cfg, about, args, report)
    print(report.text())
    if args.out:
        from effvim.files import write_atomic

        content = json.dumps(report.content(), indent=2, ensure_ascii=False)
        write_atomic(args.out, f'{content}\n'.encode())
        print(f'report: {args.out}')
    return report.status
