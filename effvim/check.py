"""`tools/check.py`: what a run would meet: the environment, and with a config data and weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

from .cli import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config


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
        '--workers', type=int, metavar='N',
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
        raise UserError('--mini, --from-scratch, --data-root and --cfg-options belong to a '
                        'CONFIG: name one, e.g. configs/retinanet_effvim_m4.py')
    if args.data_root and not Path(args.data_root).is_dir():
        raise UserError(f'--data-root {args.data_root} is not a folder: point it to where the data '
                        f'lies')

    from . import check_environment, config
    from .check_report import Report

    if args.out:
        if Path(args.out).is_dir():
            raise UserError(f'--out {args.out} is a folder: name a file')
        config.writable(Path(args.out).parent, '--out')
    cfg, about = prepare(args) if args.config else (None, {})
    report = Report()
    check_environment.examine(report, Path(args.work_dir or 'work_dirs'))
    if cfg is not None:
        examine(cfg, about, args, report)
    print(report.text())
    if args.out:
        from .checkpoint import write_whole

        content = json.dumps(report.content(), indent=2, ensure_ascii=False)
        write_whole(args.out, f'{content}\n'.encode())
        print(f'report: {args.out}')
    return report.status


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it would be trained, nothing on disk checked yet, and its description."""
    from . import config, optim, session

    cfg = config.load_config(args.config)
    about = session.describe(args, session.overlays_of(args))
    session.apply(cfg, about)
    optim.check_keys(cfg.optim_wrapper)
    config.check_model(cfg)
    return cfg, about


def examine(cfg: Config, about: dict[str, Any], args: Namespace, report: Any) -> None:
    """Data, weights, and, if nothing is wrong with them, what training would take."""
    from . import check_cost, check_data, config

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = (cores or 1) if args.workers is None else args.workers
    with config.no_collection():
        check_data.examine(cfg, report, workers, args.quick)
    check_cost.weights(cfg, report)
    if not args.quick and not report.problems:
        try:
            check_cost.cost(cfg, about, report)
        except UserError as error:
            report.problem('cost', str(error))
