"""`tools/test.py`: evaluate a checkpoint or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config


def run(args: Namespace, cfg: Config, about: dict[str, Any]) -> None:
    """Evaluate as `prepare` has prepared it."""
    from rich.console import Console

    from effvim.config.reading import import_plugins
    from effvim.engine import amp, runner, summary

    import_plugins(cfg)
    if args.report:
        from effvim.evaluation import report  # noqa: F401  # noqa: F401 (registers its hook)
    running = runner.Runner(cfg, about)
    if not is_exported(args):
        running.load_checkpoint(args.checkpoint, raw=args.raw)
    if args.fuse:
        from effvim.inference.folding import fuse

        fuse(running.model)
    if args.narrow:
        amp.autocast_networks(running.model)
    with runner.closing(running):
        metrics = summary.numbers(running.test())
    if running.rank == 0:
        Console().print(summary.table(metrics, args.checkpoint))
        if args.out:
            summary.write_metrics(metrics, args.out)
            print(f'metrics: {args.out}')
        if args.show_dir:
            print(f'pictures: {args.show_dir}')
        if args.report:
            print(f'report: {Path(args.report) / "report.html"}')


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from effvim.checkpoints import checkpoint, exported
    from effvim.config.machine import fit_to_machine
    from effvim.config.precision import amp_dtype
    from effvim.config.prepare import apply_spec, check_data, work_directory
    from effvim.config.reading import load_config
    from effvim.config.run_spec import adopt
    from effvim.config.validation import check_model
    from effvim.config.weights import check_variant
    from effvim.files import ensure_writable

    cfg = load_config(args.config)
    if is_exported(args):
        check_flags(args)
        content = exported.content(args.checkpoint)
        if args.report and content['export']['kind'] == 'EncoderDecoder':
            raise UserError(
                f'--report shows how sure a segmentor is, {args.checkpoint} gives '
                f'labels alone: report on its checkpoint'
            )
    else:
        content = checkpoint.read(args.checkpoint)
    about = adopt(args, content, args.checkpoint)
    apply_spec(cfg, about)
    check_model(cfg)
    if is_exported(args):
        exported.check_config(cfg, content['export'], args.checkpoint)
    else:
        check_variant(cfg, content, args.checkpoint)
    if args.raw and 'ema_state_dict' not in content:
        raise UserError(
            f'--raw: {args.checkpoint} holds no averaged weights, its weights are the '
            f'raw ones: leave the flag out'
        )
    if args.narrow:
        amp_dtype()
    check_data(cfg, about, [cfg.test_dataloader])
    if args.out:
        if Path(args.out).is_dir():
            raise UserError(f'--out {args.out} is a folder: name a file')
        ensure_writable(Path(args.out).parent, '--out')
    if args.show_dir:
        ensure_writable(Path(args.show_dir), '--show-dir')
    if args.report:
        if args.tta:
            raise UserError('--report shows what the plain test finds: leave --tta out')
        ensure_writable(Path(args.report), '--report')
    folder = work_directory(cfg, args.config, args.work_dir, about['overlays'])
    # apart from training's files when it is training's folder
    cfg.work_dir = str(ensure_writable(folder / 'test', '--work-dir'))
    cfg.launcher = args.launcher
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume = None, False
    cfg.custom_hooks = [dict(type='EffViMProgressHook')]
    if args.show_dir:
        cfg.custom_hooks.append(dict(type='EffViMImagesHook', folder=args.show_dir, limit=None))
    if args.report:
        cfg.custom_hooks.append(
            dict(type='EffViMReportHook', folder=args.report, checkpoint=args.checkpoint)
        )
    fit_to_machine(cfg)
    if args.tta:
        use_tta(cfg, args.config)
    if is_exported(args):
        cfg.model = dict(type='EffViMExportedModel', source=args.checkpoint)
    return cfg, about


def is_exported(args: Namespace) -> bool:
    """Whether an ONNX file is to be evaluated."""
    return args.checkpoint.endswith('.onnx')


def check_flags(args: Namespace) -> None:
    """See that no flag asks for what an exported file cannot do.

    Raises:
        UserError: one does.
    """
    for flag, given in (
        ('fuse', args.fuse),
        ('amp', args.narrow),
        ('tta', args.tta),
        ('raw', args.raw),
    ):
        if given:
            raise UserError(
                f'--{flag} is for checkpoints, {args.checkpoint} is fixed: leave it out'
            )
    if args.launcher != 'none':
        raise UserError('--launcher: an exported file is evaluated in one process: leave it out')


def use_tta(cfg: Config, path: str) -> None:
    """Test the model on several versions of each picture, as mmdet's and mmseg's tools do.

    Raises:
        UserError: the config, read from `path`, does not say how, or not at the size of its test.
    """
    from effvim.config.structure import pipeline_steps

    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(
            f'--tta: {path} has no {lacking[0]}; mmdet merges boxes, not masks, and '
            f'mmseg label maps: leave --tta out, or write one into the config'
        )
    test, augmented = (
        {str(step.scale).strip('([])') for _, step in pipeline_steps(pipeline) if 'scale' in step}
        for pipeline in (cfg.test_dataloader.dataset.pipeline, cfg.tta_pipeline)
    )
    if augmented and not test <= augmented:
        raise UserError(
            f'--tta: tta_pipeline resizes to {" or ".join(augmented)}, the test to '
            f'{" or ".join(test)}: set tta_pipeline.1.transforms.0.0.scale as well'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
