"""`tools/test.py`: evaluate a checkpoint or an exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

from . import processes
from .cli import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser('tools/test.py', 'Evaluate a checkpoint or an exported file.')
    parser.add_argument(
        'checkpoint', help='the checkpoint, or *.onnx of tools/export.py; it knows its training'
    )
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this JSON file')
    parser.add_argument('--show-dir', metavar='DIR', help='save predictions beside the truth')
    parser.add_argument(
        '--report', metavar='DIR',
        help='write a page of plots, predictions and mistakes, one file to open from disk',
    )
    parser.add_argument(
        '--fuse', action='store_true',
        help='fold BN layers and gates into the convolutions first: the same metrics, faster',
    )
    parser.add_argument(  # a checkpoint remembers `amp`, that of its training
        '--amp', dest='narrow', action='store_true',
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
    processes.read_environment(args.launcher)
    cfg, about = prepare(args)
    with processes.joined(args.launcher, **cfg.env_cfg.get('dist_cfg', {})):
        run(args, cfg, about)


def run(args: Namespace, cfg: Config, about: dict[str, Any]) -> None:
    """Evaluate as `prepare` has prepared it."""
    from rich.console import Console

    from . import amp, report, runner
    from .config import import_plugins

    import_plugins(cfg)
    if args.report:
        from . import report_page  # noqa: F401 (registers its hook)
    running = runner.Runner(cfg, about)
    if not is_exported(args):
        running.load_checkpoint(args.checkpoint, raw=args.raw)
    if args.fuse:
        from .fuse import fuse

        fuse(running.model)
    if args.narrow:
        amp.narrow(running.model)
    with runner.closing(running):
        metrics = report.numbers(running.test())
    if running.rank == 0:
        Console().print(report.table(metrics, args.checkpoint))
        if args.out:
            report.write_metrics(metrics, args.out)
            print(f'metrics: {args.out}')
        if args.show_dir:
            print(f'pictures: {args.show_dir}')
        if args.report:
            print(f'report: {Path(args.report) / "report.html"}')


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from . import amp, checkpoint, config, exported, session

    cfg = config.load_config(args.config)
    if is_exported(args):
        check_flags(args)
        content = exported.content(args.checkpoint)
        if args.report and content['export']['kind'] == 'EncoderDecoder':
            raise UserError(f'--report shows how sure a segmentor is, {args.checkpoint} gives '
                            f'labels alone: report on its checkpoint')
    else:
        content = checkpoint.read(args.checkpoint)
    about = session.adopt(args, content, args.checkpoint)
    session.apply(cfg, about)
    config.check_model(cfg)
    if is_exported(args):
        exported.check_config(cfg, content['export'], args.checkpoint)
    else:
        session.check_variant(cfg, content, args.checkpoint)
    if args.raw and 'ema_state_dict' not in content:
        raise UserError(f'--raw: {args.checkpoint} holds no averaged weights, its weights are the '
                        f'raw ones: leave the flag out')
    if args.narrow:
        amp.narrow_type()
    session.check_data(cfg, about, [cfg.test_dataloader])
    if args.out:
        if Path(args.out).is_dir():
            raise UserError(f'--out {args.out} is a folder: name a file')
        config.writable(Path(args.out).parent, '--out')
    if args.show_dir:
        config.writable(Path(args.show_dir), '--show-dir')
    if args.report:
        if args.tta:
            raise UserError('--report shows what the plain test finds: leave --tta out')
        config.writable(Path(args.report), '--report')
    folder = config.result_folder(cfg, args.config, args.work_dir, about['overlays'])
    # apart from training's files when it is training's folder
    cfg.work_dir = str(config.writable(folder / 'test', '--work-dir'))
    cfg.launcher = args.launcher
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume = None, False
    cfg.custom_hooks = [dict(type='ProgressHook')]
    if args.show_dir:
        cfg.custom_hooks.append(dict(type='PicturesHook', folder=args.show_dir, limit=None))
    if args.report:
        cfg.custom_hooks.append(
            dict(type='ReportHook', folder=args.report, checkpoint=args.checkpoint))
    config.fit_machine(cfg)
    if args.tta:
        use_tta(cfg, args.config)
    if is_exported(args):
        cfg.model = dict(type='ExportedModel', source=args.checkpoint)
    return cfg, about


def is_exported(args: Namespace) -> bool:
    """Whether an ONNX file is to be evaluated."""
    return args.checkpoint.endswith('.onnx')


def check_flags(args: Namespace) -> None:
    """See that no flag asks for what an exported file cannot do.

    Raises:
        UserError: one does.
    """
    for flag, given in (('fuse', args.fuse), ('amp', args.narrow), ('tta', args.tta),
                        ('raw', args.raw)):
        if given:
            raise UserError(f'--{flag} is for checkpoints, {args.checkpoint} is fixed: leave it '
                            f'out')
    if args.launcher != 'none':
        raise UserError('--launcher: an exported file is evaluated in one process: leave it out')


def use_tta(cfg: Config, path: str) -> None:
    """Test the model on several versions of each picture, as mmdet's and mmseg's tools do.

    Raises:
        UserError: the config, read from `path`, does not say how, or not at the size of its test.
    """
    from . import config

    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(f'--tta: {path} has no {lacking[0]}; mmdet merges boxes, not masks, and '
                        f'mmseg label maps: leave --tta out, or write one into the config')
    test, augmented = (
        {str(step.scale).strip('([])') for _, step in config.steps(pipeline) if 'scale' in step}
        for pipeline in (cfg.test_dataloader.dataset.pipeline, cfg.tta_pipeline)
    )
    if augmented and not test <= augmented:
        raise UserError(f'--tta: tta_pipeline resizes to {" or ".join(augmented)}, the test to '
                        f'{" or ".join(test)}: set tta_pipeline.1.transforms.0.0.scale as well')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
