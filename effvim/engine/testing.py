"""Evaluating a checkpoint or an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.config.editing import parse_options
from effvim.config.machine import fit_to_machine
from effvim.config.packaged import published_or_given
from effvim.config.precision import amp_dtype
from effvim.config.prepare import PreparedRun, check_data, prepare
from effvim.config.published import published_curve
from effvim.config.reading import import_plugins
from effvim.config.runtime import RuntimeChoices
from effvim.config.structure import from_memory, is_segmentor, kind_of, pipeline_steps
from effvim.config.tiling import TILED_MEGAPIXELS, Tiling
from effvim.engine import distributed
from effvim.engine.settings import EvaluationSettings
from effvim.files import ensure_writable


def evaluate(
    checkpoint: str | Path,
    config: str | None = None,
    *,
    data_root: str | Path | None = None,
    mini: bool = False,
    from_scratch: bool = False,
    work_dir: str | Path | None = None,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    report: str | Path | None = None,
    fuse: bool = False,
    amp: bool = False,
    tta: bool = False,
    raw: bool = False,
    launcher: str = 'none',
    tile: int | None = None,
    overlap: float = Tiling.overlap,
    runtime: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
) -> dict[str, float]:
    """Evaluate a checkpoint or an exported file on the test data of its config.

    Examples:
        >>> import effvim
        >>> effvim.evaluate('run/epoch_12.pth')['coco/bbox_mAP']  # doctest: +SKIP
        0.388

    Args:
        checkpoint: a checkpoint, or a file that `export_model` wrote; the name of a packaged
            config means its published weights, which are downloaded once.
        config: path or name of a config (default: the one it was trained with).
        data_root: root directory of the dataset (default: as in training).
        mini: as in training; a checkpoint of this project knows it.
        from_scratch: as in training; a checkpoint of this project knows it.
        work_dir: working directory, in which `test/` holds the logs.
        out: JSON file for the metrics.
        show_dir: directory for images of ground truth and predictions.
        report: directory for an HTML report.
        fuse: fold BN layers and learned scale factors into the convolutions first: same metrics,
            faster.
        amp: mixed precision inside backbone, neck and heads.
        tta: test-time augmentation, as the config's `tta_pipeline` says.
        raw: of a run with averaged weights, evaluate the raw ones.
        launcher: 'none', 'pytorch' (torchrun) or 'slurm'.
        tile: side in pixels of the overlapping tiles in which images are predicted; the metrics are
            those of whole images.
        overlap: fraction of a tile that it shares with the next one.
        runtime: how to run an exported file, by the names of `Predictor`'s arguments, e.g.
            {'runtime': 'openvino', 'precision': 'bfloat16'}.
        options: overrides of the config, by dotted key or as 'KEY=VALUE' strings.

    Returns:
        The metrics by the names of mmdet and mmseg: COCO's from 0 to 1, mIoU, mAcc and aAcc in
        percent.

    Raises:
        UserError: a mistake in the arguments, the config, the data or the checkpoint.
    """
    return run_evaluation(
        EvaluationSettings(
            checkpoint=str(checkpoint),
            config=config,
            data_root=data_root,
            mini=mini,
            from_scratch=from_scratch,
            work_dir=work_dir,
            out=out,
            show_dir=show_dir,
            report=report,
            fuse=fuse,
            amp=amp,
            tta=tta,
            raw=raw,
            launcher=launcher,
            tile=tile,
            overlap=overlap,
            runtime=RuntimeChoices.of(runtime or {}),
            options=options if isinstance(options, Mapping) else parse_options(options),
        )
    )


def run_evaluation(settings: EvaluationSettings) -> dict[str, float]:
    """Evaluate as `evaluate` does.

    Raises:
        UserError: as `evaluate`.
    """
    distributed.read_environment(settings.launcher)
    prepared = prepare_evaluation(settings)
    with distributed.joined(settings.launcher, **prepared.cfg.env_cfg.get('dist_cfg', {})):
        return _run(prepared, settings)


def evaluate_alone(settings: EvaluationSettings) -> dict[str, float]:
    """Evaluate as `evaluate` does, in this process only, also if a launcher has started others.

    Raises:
        UserError: as `evaluate`.
    """
    return _run(prepare_evaluation(settings), settings)


def _run(prepared: PreparedRun, settings: EvaluationSettings) -> dict[str, float]:
    import_plugins(prepared.cfg)

    from effvim.datasets.transforms import read_larger_images
    from effvim.engine import amp, runner, summary
    from effvim.inference.folding import fuse

    running = runner.Runner(prepared.cfg, prepared.spec)
    if settings.tiling:
        read_larger_images(running.test_dataloader.dataset, TILED_MEGAPIXELS)
    if not settings.is_exported:
        running.load_checkpoint(settings.checkpoint, raw=settings.raw)
    if settings.fuse:
        fuse(running.model)
    if settings.amp:
        amp.autocast_networks(running.model)
    with runner.closing(running):
        metrics = summary.numbers(running.test())
    if running.rank == 0:
        console.show(summary.table(metrics, settings.checkpoint))
        if settings.out:
            summary.write_metrics(metrics, settings.out)
            console.say(f'metrics: {settings.out}')
        if settings.show_dir:
            console.say(f'images: {settings.show_dir}')
        if settings.report:
            console.say(f'report: {Path(settings.report) / "report.html"}')
        if line := _compared_with_published(prepared, metrics):
            console.say(line)
    return metrics


def _compared_with_published(prepared: PreparedRun, metrics: Mapping[str, float]) -> str:
    """How far the metrics of a checkpoint are from those of a published run of the same recipe."""
    curve = published_curve(prepared.cfg, prepared.spec.config)
    meta = (prepared.checkpoint.content if prepared.checkpoint else {}).get('meta') or {}
    return curve.compare(metrics, meta.get(curve.unit, 0)) if curve else ''


def prepare_evaluation(settings: EvaluationSettings) -> PreparedRun:
    """Read and check everything that an evaluation needs, without importing mmdet.

    Raises:
        UserError: as `evaluate`.
    """
    settings.check()
    given = settings.checkpoint, settings.config
    settings.checkpoint, settings.config = published_or_given(*given)
    loaded = ckpt.load(settings.checkpoint)
    if settings.report and loaded.export and loaded.export['kind'] == 'EncoderDecoder':
        raise UserError(
            f'--report shows the probabilities of a segmentor, {settings.checkpoint} gives only '
            f'labels: report on its checkpoint'
        )
    prepared = prepare(settings.config, settings.asked(), loaded)
    cfg = prepared.cfg
    if settings.raw and 'ema_state_dict' not in loaded.content:
        raise UserError(
            f'--raw: {settings.checkpoint} holds no averaged weights, its weights are the raw '
            f'ones: drop the flag'
        )
    if settings.amp:
        amp_dtype()
    check_data(prepared, ['test_dataloader'])
    if settings.out:
        ensure_writable(Path(settings.out).parent, '--out')
    if settings.show_dir:
        ensure_writable(Path(settings.show_dir), '--show-dir')
    if settings.report:
        ensure_writable(Path(settings.report), '--report')
    # apart from training's files if it is training's directory
    folder = prepared.work_directory(settings.work_dir) / 'test'
    cfg.work_dir = str(ensure_writable(folder, '--work-dir'))
    cfg.launcher = settings.launcher
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume = None, False
    cfg.custom_hooks = [dict(type='EffViMProgressHook')]
    if settings.show_dir:
        cfg.custom_hooks.append(
            dict(type='EffViMImagesHook', folder=str(settings.show_dir), limit=None)
        )
    if settings.report:
        cfg.custom_hooks.append(
            dict(
                type='EffViMReportHook',
                folder=str(settings.report),
                checkpoint=settings.checkpoint,
            )
        )
    fit_to_machine(cfg)
    if settings.tta:
        use_tta(cfg, prepared.config)
    segments = is_segmentor(cfg)
    if loaded.export:
        cfg.model = dict(
            type='EffViMExportedModel', source=settings.checkpoint, **vars(settings.runtime)
        )
    if settings.tiling:
        use_tiles(cfg, settings.tiling, len(prepared.spec.classes), segments)
    return prepared


def use_tiles(cfg: Config, tiling: Tiling, classes: int, segments: bool) -> None:
    """Evaluate images in tiles, each of which goes through the transforms of the test.

    Args:
        cfg: changed in place.
        tiling: the tiles.
        classes: number of classes.
        segments: whether the model gives label maps.
    """
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.model = dict(
        type='EffViMTiledModel',
        module=cfg.model,
        pipeline=from_memory(pipeline),
        tile=tiling.size,
        overlap=tiling.overlap,
        classes=classes,
        segments=segments,
    )
    cfg.test_dataloader.dataset.pipeline = [
        step for step in pipeline if kind_of(step).startswith(('Load', 'Pack'))
    ]


def use_tta(cfg: Config, path: str) -> None:
    """Evaluate several augmented versions of each image, as mmdet's and mmseg's tools do.

    Raises:
        UserError: the config, read from `path`, does not say how, or not at the size of its test.
    """
    if 'segm' in (cfg.test_evaluator.get('metric') or ()):
        raise UserError(
            '--tta: mmdet merges boxes, not masks: drop the flag, or evaluate boxes alone with '
            '--cfg-options test_evaluator.metric=bbox'
        )
    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise UserError(f'--tta: {path} has no {lacking[0]}: drop the flag, or add one')
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
