"""Training a detector or segmentor."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.config.editing import apply_options, parse_options
from effvim.config.machine import fit_to_machine
from effvim.config.packaged import config_path
from effvim.config.precision import use_amp
from effvim.config.prepare import PreparedRun, check_data, is_copy, prepare, work_directory
from effvim.config.reading import import_plugins, load_config
from effvim.config.run_spec import RunSpec
from effvim.config.weights import fetch_weights
from effvim.engine import distributed, ema, lock, optimizer, run_record
from effvim.engine.settings import EvaluationSettings, TrainSettings
from effvim.files import ensure_writable

EARLY_STOPPING = 'EffViMEarlyStoppingHook'


def train(
    config: str,
    *,
    data: str | Path | None = None,
    data_root: str | Path | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    patience: int | None = None,
    mini: bool = False,
    from_scratch: bool = False,
    work_dir: str | Path | None = None,
    resume: str | Path | bool | None = None,
    seed: int | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    auto_batch: bool = False,
    ema: bool = False,
    skip_bad_batches: int = 0,
    tensorboard: bool = False,
    launcher: str = 'none',
    options: Mapping[str, Any] | Sequence[str] = (),
) -> Path | None:
    """Train a detector or segmentor.

    Examples:
        >>> import effvim
        >>> effvim.train('retinanet_effvim_m4', mini=True)  # doctest: +SKIP
        PosixPath('work_dirs/retinanet_effvim_m4-mini/epoch_2.pth')

    Args:
        config: path of a config, or the name of a packaged one.
        data: directory that `effvim data split` wrote; schedule, image size and anchors are fitted
            to it, and a report is written at the end.
        data_root: root directory of a dataset in the config's layout.
        epochs: with `data`, the number of epochs instead of one derived from the number of images.
        image_size: with `data`, the long side that most images are resized to, in pixels, rounded
            to a multiple of 32 (default: by the sizes of the images).
        augment: with `data`, 'none', 'light' or 'strong' instead of the config's augmentation.
        patience: with `data`, stop after this many validations in a row without improvement.
        mini: train from scratch on a synthetic dataset that is created on the spot.
        from_scratch: start from randomly initialised weights.
        work_dir: working directory (default: the config's, or work_dirs/ and the config's name).
        resume: True for the newest checkpoint in the working directory, or a checkpoint.
        seed: random seed (default: the config's).
        amp: mixed precision.
        auto_scale_lr: scale the learning rate with the total batch size.
        auto_batch: if the largest step does not fit into memory, train with a smaller batch and
            accumulate gradients, so that the total batch size stays the same.
        ema: average the weights (exponential moving average).
        skip_bad_batches: skip up to this many batches whose loss or gradient is not finite.
        tensorboard: write logs for TensorBoard as well.
        launcher: 'none', 'pytorch' (torchrun) or 'slurm'.
        options: overrides of the config, by dotted key or as 'KEY=VALUE' strings.

    Returns:
        The newest checkpoint; None if the config saves none.

    Raises:
        UserError: a mistake in the arguments, the config, the data or the weights.
    """
    return run_training(
        TrainSettings(
            config=config,
            data=data,
            data_root=data_root,
            epochs=epochs,
            image_size=image_size,
            augment=augment,
            patience=patience,
            mini=mini,
            from_scratch=from_scratch,
            work_dir=work_dir,
            resume=resume,
            seed=seed,
            amp=amp,
            auto_scale_lr=auto_scale_lr,
            auto_batch=auto_batch,
            ema=ema,
            skip_bad_batches=skip_bad_batches,
            tensorboard=tensorboard,
            launcher=launcher,
            options=options if isinstance(options, Mapping) else parse_options(options),
        )
    )


def run_training(settings: TrainSettings) -> Path | None:
    """Train as `train` does.

    Raises:
        UserError: as `train`.
    """
    distributed.read_environment(settings.launcher)
    prepared = prepare_training(settings)
    cfg, folder = prepared.cfg, Path(prepared.cfg.work_dir)
    with (
        distributed.joined(settings.launcher, **cfg.env_cfg.get('dist_cfg', {})),
        lock.held(folder),
    ):
        try:
            if distributed.launched(settings.launcher)[0] == 0:
                run_record.write(folder, prepared.spec)
            best = _run(prepared, settings.auto_batch)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f'{folder}: {error.strerror}: nothing that was there is lost; free some space, '
                f'then continue with --resume'
            ) from error
    newest = next(iter(ckpt.newest_first(folder)), None)
    if newest and prepared.spec.fitted and distributed.launched(settings.launcher)[0] == 0:
        from effvim.engine.testing import evaluate_alone

        stops_early = any(h.type == EARLY_STOPPING for h in prepared.cfg.custom_hooks)
        evaluate_alone(
            EvaluationSettings(
                checkpoint=str(best if stops_early and best else newest),
                work_dir=folder,
                out=folder / 'metrics.json',
                report=folder / 'report',
            )
        )
    return newest


def _run(prepared: PreparedRun, auto_batch: bool) -> Path | None:
    """Train; returns the best checkpoint, if there is one."""
    from effvim.engine import fitting_batch, out_of_memory

    fitting_batch.ensure_fits(prepared, auto_batch)
    import_plugins(prepared.cfg)

    from effvim.engine import runner, summary

    with unknown_types_explained():
        running = runner.Runner(prepared.cfg, prepared.spec)
        if running.rank == 0:
            summary.before_training(running)
        with out_of_memory.explained(running), runner.closing(running):
            running.train()
    best = summary.best_checkpoint(running)
    if running.rank == 0:
        summary.after_training(running)
    return best


@contextlib.contextmanager
def unknown_types_explained() -> Iterator[None]:
    """Turn an error of a registry, which knows no such type, into one line.

    Raises:
        UserError: a type of the config is in no registry.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        unknown = re.search(r"'?(\S+) is not in the (.+?) registry", str(error))
        if not unknown:
            raise
        raise UserError(
            f'type {unknown[1]} of the config is not in the {unknown[2]} registry: correct it, or '
            f'import the module that registers it by custom_imports'
        ) from error


def prepare_training(settings: TrainSettings) -> PreparedRun:
    """Read and check everything that a training run needs, without importing mmdet.

    Raises:
        UserError: as `train`.
    """
    settings.check()
    config = config_path(settings.config)
    asked = dataclasses.replace(
        settings, config=config, data_root=settings.data or settings.data_root
    ).asked(
        amp=settings.amp,
        auto_scale_lr=settings.auto_scale_lr,
        ema=settings.ema,
        seed=settings.seed,
        skip_bad_batches=settings.skip_bad_batches,
    )
    resumed, asked = find_resumed(settings, config, asked)
    parsed: dict[Path, dict[str, Any]] = {}  # annotations that fitting reads, for their check
    if settings.data:
        asked.fitted = fitted_to_data(settings, config, parsed)
    prepared = prepare(
        config, asked, resumed, check=lambda cfg: optimizer.check_keys(cfg.optim_wrapper)
    )
    cfg, spec = prepared.cfg, prepared.spec
    spec.config = Path(config).name  # which may differ from that of the resumed run
    if is_copy(cfg):
        make_independent(cfg, config, bool(resumed))
    settings.check_skipping(spec.skip_bad_batches)  # which a resumed run remembers
    cfg.launcher = settings.launcher
    apply_training_choices(cfg, spec, settings)
    if resumed:
        check_resumable(prepared, resumed, settings.options)
    folder = prepared.work_directory(settings.work_dir)
    copy = folder / spec.config  # which training writes
    if (
        copy.exists()
        and copy.samefile(config)
        and 'EffViMResumeHook' not in copy.read_text('utf-8')
    ):
        raise UserError(
            f'--work-dir {folder} holds {spec.config}, which would be replaced by a copy with '
            f'everything applied: choose another directory'
        )
    earlier = ckpt.newest_first(folder) or any(folder.glob('best_*.pth'))
    if not resumed and 'mini' not in spec.presets and earlier:
        raise UserError(
            f'{folder} holds checkpoints of an earlier run, which this one would overwrite: '
            f'choose another --work-dir, or continue that run: effvim train '
            f'{Path(settings.config).stem} --work-dir {folder} --resume'
        )
    check_data(prepared, ['train_dataloader', 'val_dataloader'], parsed)
    if resumed:
        cfg.load_from, cfg.resume = resumed.path, True
        cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    fetch_weights(cfg)
    cfg.work_dir = str(ensure_writable(folder, '--work-dir'))  # last: a mistake leaves none
    add_hooks(cfg, folder, spec.skip_bad_batches)
    fit_to_machine(cfg)
    return prepared


def make_independent(cfg: Config, config: str, resumes: bool) -> None:
    """Make a config that training wrote one of a run of its own, also on another machine.

    Args:
        cfg: changed in place.
        config: its path, for messages.
        resumes: whether the run that it is for continues from a checkpoint.

    Raises:
        UserError: it is of a run that was resumed, and no longer says what weights that began with.
    """
    if cfg.get('resume') and not resumes:
        raise UserError(
            f'{config} was written by a run that was resumed, and does not say which weights that '
            f'began with: pass the config that it was made from'
        )
    if (cfg.get('model_wrapper_cfg') or {}).get('device_ids', 0) is None:  # as fit_to_machine sets
        cfg.pop('model_wrapper_cfg')
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'nccl'})  # as every config says


def fitted_to_data(
    settings: TrainSettings, config: str, parsed: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """What `--data` changes in the config, see `fit.options`.

    Args:
        settings: of the training.
        config: path of the config.
        parsed: receives the annotations that are read.

    Raises:
        UserError: the data is wrong, or one of the user's options contradicts it.
    """
    from effvim.formats import fit

    assert settings.data
    cfg = load_config(config)
    apply_options(cfg, dict(settings.options))  # e.g. which images are ignored
    chosen = {key.removeprefix('+') for key in settings.options}
    if length := chosen & {'train_cfg.max_epochs', 'train_cfg.max_iters'}:
        raise UserError(f'--cfg-options {min(length)}: with --data use --epochs')
    replaced = fit.replaced(settings.options)
    rank, processes = distributed.launched(settings.launcher)
    with console.quiet(errors=True) if rank else contextlib.nullcontext():
        fitted = fit.options(
            cfg,
            Path(settings.data),
            from_scratch=settings.from_scratch,
            epochs=settings.epochs,
            image_size=settings.image_size,
            augment=settings.augment or ('config' if replaced else None),
            patience=settings.patience,
            processes=processes,
            chosen=chosen,
            parsed=parsed,
        )
    for key, whole in replaced.items():
        if whole in fitted:
            raise UserError(
                f'--cfg-options {key}: --augment and --patience replace {whole}: drop the option, '
                f'or use --augment config without --patience'
            )
    return fitted


def find_resumed(
    settings: TrainSettings, config: str, asked: RunSpec
) -> tuple[ckpt.LoadedCheckpoint | None, RunSpec]:
    """The checkpoint to resume from, None for a new run, and what the run is then asked for.

    Raises:
        UserError: it is absent, cannot be read, or holds only weights.
    """
    if not settings.resume:
        return None, asked
    if settings.resume is not True:
        resumed = ckpt.load(settings.resume)
    else:
        folder = work_directory(load_config(config), config, settings.work_dir, asked.presets)
        if (folder / lock.NAME).exists() and not ckpt.newest_first(folder):
            console.say(f'the run in {folder} ended before its first checkpoint: starting anew')
            first = run_record.read(folder)
            if first:
                seed = first.options.get('randomness.seed', first.seed)
                asked = asked.adopt(first.to_dict(), seed, str(folder))
            return None, asked
        resumed = ckpt.load_latest(folder)
    ckpt.check_training_state(resumed.content, Path(resumed.path))
    return resumed, asked


def apply_training_choices(cfg: Config, spec: RunSpec, settings: TrainSettings) -> None:
    """Apply what only training knows: seed, precision, learning rate, averaged weights, logs.

    Raises:
        UserError: a choice is not available with this config or on this machine.
    """
    if spec.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': spec.seed}
    if spec.amp:
        use_amp(cfg)
    if spec.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise UserError(
                f'--auto-scale-lr: {settings.config} does not set auto_scale_lr.base_batch_size, '
                f'the batch size that its learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True
    if spec.ema:
        ema.use_ema(cfg)
    if settings.tensorboard:
        use_tensorboard(cfg)


# Options whose values a resumed run takes from its checkpoint, and options that change the batches,
# with which a schedule may change.
FROM_CHECKPOINT = ('optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'param_scheduler')
OF_BATCHES = ('train_dataloader.batch_size', 'optim_wrapper.accumulative_counts')


def check_resumable(
    prepared: PreparedRun, resumed: ckpt.LoadedCheckpoint, options: Mapping[str, Any]
) -> None:
    """Check that a run can continue from a checkpoint.

    Args:
        prepared: the run.
        resumed: the checkpoint.
        options: those that the user has passed now.

    Raises:
        UserError: it averages weights and the checkpoint does not or vice versa, it is finished, or
            an option would have no effect.
    """
    described = ckpt.describe(resumed.content)  # nothing of other programs' checkpoints
    trained = {
        key.removeprefix('+'): value for key, value in described.get('options', options).items()
    }
    asked = {key.removeprefix('+'): value for key, value in options.items()}
    anew = {key for key, value in asked.items() if key not in trained or trained[key] != value}
    # a schedule is counted anew with the batches of an epoch
    other_batches = not anew.isdisjoint(OF_BATCHES) and 'max_iters' not in prepared.cfg.train_cfg
    for key in sorted(anew):
        scheduled = other_batches and key.startswith('param_scheduler')
        if key.startswith(FROM_CHECKPOINT) and not scheduled:
            raise UserError(
                f'--cfg-options {key}: with --resume it comes from the checkpoint; for another '
                f'value start a new run with --cfg-options load_from={resumed.path}'
            )
    ema.check_averaging(prepared.cfg, resumed.content, resumed.path)
    train_cfg = prepared.cfg.train_cfg
    unit = 'iter' if 'max_iters' in train_cfg else 'epoch'
    done, total = resumed.content['meta'][unit], train_cfg.get(f'max_{unit}s')
    due = ckpt.is_validation_due(resumed.content)
    if total and (done > total or (done == total and not due)):
        raise UserError(
            f'--resume: {resumed.path} has finished its {done} {unit}s; to train longer raise '
            f'them: --cfg-options train_cfg.max_{unit}s=…'
        )


def use_tensorboard(cfg: Config) -> None:
    """Log to TensorBoard's files too.

    Raises:
        UserError: the package is not installed.
    """
    if not importlib.util.find_spec('tensorboard'):
        raise UserError(
            '--tensorboard needs the package tensorboard: pip install tensorboard, or drop the flag'
        )
    cfg.visualizer.vis_backends = [
        *(cfg.visualizer.get('vis_backends') or []),
        dict(type='TensorboardVisBackend'),
    ]


def add_hooks(cfg: Config, folder: Path, skip: int) -> None:
    """Add this project's hooks around training, those of a copy that training wrote once only.

    Raises:
        UserError: a default hook that training needs is switched off.
    """
    for name, kind in (('logger', 'LoggerHook'), ('checkpoint', 'CheckpointHook')):
        if cfg.default_hooks.setdefault(name, dict(type=kind)) is None:
            raise UserError(f'default_hooks.{name}=None: training needs it, drop the option')
    interval = cfg.default_hooks.logger.get('interval', 50)
    checkpoints = cfg.default_hooks.checkpoint
    checkpoints.backend_args = dict(backend='effvim_atomic')
    if checkpoints.type == 'CheckpointHook':
        checkpoints.type = 'EffViMCheckpointHook'
    if checkpoints.get('max_keep_ckpts') == 1:
        checkpoints.max_keep_ckpts = 2  # one to fall back on if the newest is corrupt
    own = [
        dict(type='EffViMProgressHook', interval=interval),
        dict(type='EffViMResumeHook'),
        dict(type='EffViMGuardHook', skip=skip),
        dict(type='EffViMCurvesHook'),
        dict(type='EffViMPublishedHook'),
        dict(type='EffViMImagesHook', folder=str(folder / 'images')),
        dict(type='EffViMTrainImagesHook', path=str(folder / 'train_images.jpg')),
    ]
    types = {hook['type'] for hook in own}
    others = [hook for hook in cfg.get('custom_hooks') or [] if hook.type not in types]
    cfg.custom_hooks = [*others, *own]
