"""`tools/test.py`: evaluate a checkpoint."""

from __future__ import annotations

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
    parser = config_parser('tools/test.py', 'Evaluate a checkpoint.')
    parser.add_argument('checkpoint', help='the checkpoint; it knows how it was trained')
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this JSON file')
    parser.add_argument('--show-dir', metavar='DIR', help='save predictions beside the truth')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says.

    Raises:
        UserError: a mistake in it, in the config, the data or the checkpoint.
    """
    args = parse(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg, about = prepare(args)

    from rich.console import Console

    from . import report, runner
    from .config import import_plugins

    import_plugins(cfg)
    running = runner.Runner(cfg, about)
    running.load_checkpoint(args.checkpoint)
    with runner.closing(running):
        metrics = report.numbers(running.test())
    if running.rank == 0:
        Console().print(report.table(metrics, args.checkpoint))
        if args.out:
            report.write_metrics(metrics, args.out)
            print(f'metrics: {args.out}')
        if args.show_dir:
            print(f'pictures: {args.show_dir}')


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from . import checkpoint, config, session

    cfg = config.load_config(args.config)
    content = checkpoint.read(args.checkpoint)
    about = session.adopt(args, content, args.checkpoint)
    session.apply(cfg, about)
    config.check_model(cfg)
    session.check_variant(cfg, content, args.checkpoint)
    session.check_data(cfg, about, [cfg.test_dataloader])
    if args.out:
        if Path(args.out).is_dir():
            raise UserError(f'--out {args.out} is a folder: name a file')
        config.writable(Path(args.out).parent, '--out')
    if args.show_dir:
        config.writable(Path(args.show_dir), '--show-dir')
    folder = config.result_folder(cfg, args.config, args.work_dir, about['overlays'])
    # apart from training's files when it is training's folder
    cfg.work_dir = str(config.writable(folder / 'test', '--work-dir'))
    cfg.launcher = args.launcher
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume = None, False
    cfg.custom_hooks = [dict(type='ProgressHook')]
    if args.show_dir:
        cfg.custom_hooks.append(dict(type='PicturesHook', folder=args.show_dir, limit=None))
    config.fit_machine(cfg)
    return cfg, about
