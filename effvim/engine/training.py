"""`tools/train.py`: train a detector or segmentor from a config."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config


def run(cfg: Config, about: dict[str, Any]) -> None:
    """Train as `prepare` has prepared it."""
    from effvim.config.reading import import_plugins
    from effvim.engine import runner, summary

    import_plugins(cfg)
    running = runner.Runner(cfg, about)
    if running.rank == 0:
        summary.before_training(running)
    with runner.closing(running):
        running.train()
    if running.rank == 0:
        summary.after_training(running)


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from effvim.checkpoints import checkpoint
    from effvim.config.machine import fit_to_machine
    from effvim.config.precision import use_amp
    from effvim.config.prepare import apply_spec, check_data, work_directory
    from effvim.config.reading import load_config
    from effvim.config.run_spec import adopt, describe, overlays_of
    from effvim.config.validation import check_model
    from effvim.config.weights import check_variant, fetch_weights
    from effvim.engine import ema, lock, optimizer
    from effvim.files import ensure_writable

    cfg = load_config(args.config)
    if args.data and (args.mini or args.data_root or args.resume):
        raise UserError(
            '--data is where the data lies and starts a run: leave out --mini, '
            '--data-root and --resume'
        )
    if args.epochs is not None and not args.data:
        raise UserError('--epochs goes with --data; otherwise --cfg-options train_cfg.max_epochs=…')
    if args.data and (args.auto_scale_lr or args.launcher != 'none'):
        raise UserError(
            '--data chooses the learning rate for one process: leave out '
            '--auto-scale-lr and --launcher, or give --data-root and a schedule'
        )
    args.data_root = args.data or args.data_root
    overlays = overlays_of(args)
    resumed = None
    if args.resume:
        folder = work_directory(cfg, args.config, args.work_dir, overlays)
        if args.resume != 'latest':
            resumed = Path(args.resume)
            content = checkpoint.read(resumed)
        elif (folder / lock.NAME).exists() and not checkpoint.newest_first(folder):
            print(f'the run in {folder} ended before its first checkpoint: it starts anew')
        else:
            resumed, content = checkpoint.read_latest(folder)
    if resumed:
        about = adopt(args, content, str(resumed))
        checkpoint.check_resumable(content, resumed)
    else:
        about = describe(args, overlays)
        if args.data:
            from effvim.formats import fit

            about['fitted'] = fit.options(
                cfg, Path(args.data), 'from_scratch' in overlays, args.epochs
            )
    apply_spec(cfg, about)
    cfg.launcher = args.launcher
    if about['seed'] is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': about['seed']}
    if about['amp']:
        use_amp(cfg)
    if about['auto_scale_lr']:
        if 'auto_scale_lr' not in cfg:
            raise UserError(
                f'--auto-scale-lr: {args.config} does not say auto_scale_lr.'
                f'base_batch_size, the batch that its learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True
    if about['ema']:
        ema.use_ema(cfg)
    if args.tensorboard:
        use_tensorboard(cfg)
    if about['skip_bad_batches'] < 0 or (about['skip_bad_batches'] and args.launcher != 'none'):
        raise UserError(
            '--skip-bad-batches N: a number from 0, and on one process only, since the '
            'batches of several make one step'
        )
    optimizer.check_keys(cfg.optim_wrapper)
    check_model(cfg)
    if resumed:
        check_variant(cfg, content, str(resumed))
        ema.check_resumable(cfg, content, str(resumed))
        unit = 'iter' if 'max_iters' in cfg.train_cfg else 'epoch'
        done, whole = content['meta'][unit], cfg.train_cfg.get(f'max_{unit}s')
        due = checkpoint.is_validation_due(content)
        if whole and (done > whole or (done == whole and not due)):
            raise UserError(
                f'--resume: {resumed} has finished its {done} {unit}s; to go on raise '
                f'them: --cfg-options train_cfg.max_{unit}s=…'
            )
    folder = work_directory(cfg, args.config, args.work_dir, about['overlays'])
    if not resumed and 'mini' not in overlays and any(folder.glob('*_[0-9]*.pth')):
        raise UserError(
            f'{folder} holds checkpoints of an earlier run, which this one would '
            f'overwrite: go on with --resume, or choose another --work-dir'
        )
    cfg.work_dir = str(ensure_writable(folder, '--work-dir'))
    check_data(cfg, about, [cfg.train_dataloader, cfg.val_dataloader])
    if resumed:
        cfg.load_from, cfg.resume = str(resumed), True
        cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    fetch_weights(cfg)
    add_hooks(cfg, folder, about['skip_bad_batches'])
    fit_to_machine(cfg)
    return cfg, about


def use_tensorboard(cfg: Config) -> None:
    """Log to TensorBoard's files too, beside the others in the work dir.

    Raises:
        UserError: the package is not installed.
    """
    if not importlib.util.find_spec('tensorboard'):
        raise UserError(
            '--tensorboard needs the package tensorboard: pip install tensorboard, or '
            'leave the flag out'
        )
    cfg.visualizer.vis_backends = [
        *(cfg.visualizer.get('vis_backends') or []),
        dict(type='TensorboardVisBackend'),
    ]


def add_hooks(cfg: Config, folder: Path, skip: int) -> None:
    """Progress, curves, pictures; checkpoints written whole; up to `skip` bad batches left out."""
    interval = cfg.default_hooks.logger.get('interval', 50)
    keep = cfg.default_hooks.checkpoint
    keep.backend_args = dict(backend='whole_file')
    if keep.type == 'CheckpointHook':
        keep.type = 'EffViMCheckpointHook'
    if keep.get('max_keep_ckpts') == 1:
        keep.max_keep_ckpts = 2  # one to fall back on if the newest is damaged
    cfg.custom_hooks = [
        *cfg.get('custom_hooks', []),
        dict(type='EffViMProgressHook', interval=interval),
        dict(type='EffViMResumeHook'),
        dict(type='EffViMGuardHook', skip=skip),
        dict(type='EffViMCurvesHook'),
        dict(type='EffViMImagesHook', folder=str(folder / 'pictures')),
    ]
