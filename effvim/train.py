"""`tools/train.py`: train a detector or segmentor from a config."""

from __future__ import annotations

import errno
import importlib.util
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
    parser = config_parser('tools/train.py', 'Train a detector or segmentor.')
    parser.add_argument(
        '--resume', nargs='?', const='latest', metavar='CKPT',
        help='go on from this checkpoint; without a name from the latest in the work dir',
    )
    parser.add_argument(
        '--seed', type=int, metavar='N', help='of all random numbers, instead of the config\'s'
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--ema', action='store_true',
        help='average the weights; validation measures the average, checkpoints hold both',
    )
    parser.add_argument(
        '--skip-bad-batches', type=int, metavar='N', default=0,
        help='leave out up to N batches whose loss or gradient is not finite, instead of ending',
    )
    parser.add_argument(
        '--tensorboard', action='store_true', help='write logs for TensorBoard as well'
    )
    parser.add_argument(
        '--dry-run', action='store_true',
        help='two iterations of everything: train, save, evaluate, resume; says what the whole run '
             'would take, keeps nothing',
    )
    parser.add_argument(
        '--data', metavar='DIR',
        help='train on this, as written by effvim data split: schedule, picture size and anchors '
             'as it needs, and a report at the end',
    )
    parser.add_argument(
        '--epochs', type=int, metavar='N', help='with --data: instead of by the number of pictures')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Raises:
        UserError: a mistake in it, in the config, the data or the weights.
    """
    args = parse(argv)
    if args.dry_run:
        from .dry_run import rehearse

        rehearse(args)
        return
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    processes.read_environment(args.launcher)
    cfg, about = prepare(args)

    from . import lock

    with (processes.joined(args.launcher, **cfg.env_cfg.get('dist_cfg', {})),
          lock.held(Path(cfg.work_dir))):
        try:
            run(cfg, about)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f'{cfg.work_dir}: {error.strerror}: nothing that was there is lost; '
                            f'free some, then go on with --resume') from error
    if about['fitted'] and args.launcher == 'none':
        from . import checkpoint, test

        folder = Path(cfg.work_dir)
        test.main([args.config, str(checkpoint.find_latest(folder)), '--work-dir', str(folder),
                   '--out', str(folder / 'metrics.json'), '--report', str(folder / 'report')])


def run(cfg: Config, about: dict[str, Any]) -> None:
    """Train as `prepare` has prepared it."""
    from . import report, runner
    from .config import import_plugins

    import_plugins(cfg)
    running = runner.Runner(cfg, about)
    if running.rank == 0:
        report.before_training(running)
    with runner.closing(running):
        running.train()
    if running.rank == 0:
        report.after_training(running)


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from . import amp, checkpoint, config, ema, lock, optim, session

    cfg = config.load_config(args.config)
    if args.data and (args.mini or args.data_root or args.resume):
        raise UserError('--data is where the data lies and starts a run: leave out --mini, '
                        '--data-root and --resume')
    if args.epochs is not None and not args.data:
        raise UserError('--epochs goes with --data; otherwise --cfg-options train_cfg.max_epochs=…')
    if args.data and (args.auto_scale_lr or args.launcher != 'none'):
        raise UserError('--data chooses the learning rate for one process: leave out '
                        '--auto-scale-lr and --launcher, or give --data-root and a schedule')
    args.data_root = args.data or args.data_root
    overlays = session.overlays_of(args)
    resumed = None
    if args.resume:
        folder = config.result_folder(cfg, args.config, args.work_dir, overlays)
        if args.resume != 'latest':
            resumed = Path(args.resume)
            content = checkpoint.read(resumed)
        elif (folder / lock.NAME).exists() and not checkpoint.newest_first(folder):
            print(f'the run in {folder} ended before its first checkpoint: it starts anew')
        else:
            resumed, content = checkpoint.read_latest(folder)
    if resumed:
        about = session.adopt(args, content, str(resumed))
        checkpoint.check_resumable(content, resumed)
    else:
        about = session.describe(args, overlays)
        if args.data:
            from . import data_fit

            about['fitted'] = data_fit.options(
                cfg, Path(args.data), 'from_scratch' in overlays, args.epochs)
    session.apply(cfg, about)
    cfg.launcher = args.launcher
    if about['seed'] is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': about['seed']}
    if about['amp']:
        amp.use_amp(cfg)
    if about['auto_scale_lr']:
        if 'auto_scale_lr' not in cfg:
            raise UserError(f'--auto-scale-lr: {args.config} does not say auto_scale_lr.'
                            f'base_batch_size, the batch that its learning rate is meant for')
        cfg.auto_scale_lr.enable = True
    if about['ema']:
        ema.use_ema(cfg)
    if args.tensorboard:
        use_tensorboard(cfg)
    if about['skip_bad_batches'] < 0 or (about['skip_bad_batches'] and args.launcher != 'none'):
        raise UserError('--skip-bad-batches N: a number from 0, and on one process only, since the '
                        'batches of several make one step')
    optim.check_keys(cfg.optim_wrapper)
    config.check_model(cfg)
    if resumed:
        session.check_variant(cfg, content, str(resumed))
        ema.check_resumable(cfg, content, str(resumed))
        unit = 'iter' if 'max_iters' in cfg.train_cfg else 'epoch'
        done, whole = content['meta'][unit], cfg.train_cfg.get(f'max_{unit}s')
        due = checkpoint.is_validation_due(content)
        if whole and (done > whole or (done == whole and not due)):
            raise UserError(f'--resume: {resumed} has finished its {done} {unit}s; to go on raise '
                            f'them: --cfg-options train_cfg.max_{unit}s=…')
    folder = config.result_folder(cfg, args.config, args.work_dir, about['overlays'])
    if not resumed and 'mini' not in overlays and any(folder.glob('*_[0-9]*.pth')):
        raise UserError(f'{folder} holds checkpoints of an earlier run, which this one would '
                        f'overwrite: go on with --resume, or choose another --work-dir')
    cfg.work_dir = str(config.writable(folder, '--work-dir'))
    session.check_data(cfg, about, [cfg.train_dataloader, cfg.val_dataloader])
    if resumed:
        cfg.load_from, cfg.resume = str(resumed), True
        cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    session.fetch_weights(cfg)
    add_hooks(cfg, folder, about['skip_bad_batches'])
    config.fit_machine(cfg)
    return cfg, about


def use_tensorboard(cfg: Config) -> None:
    """Log to TensorBoard's files too, beside the others in the work dir.

    Raises:
        UserError: the package is not installed.
    """
    if not importlib.util.find_spec('tensorboard'):
        raise UserError('--tensorboard needs the package tensorboard: pip install tensorboard, or '
                        'leave the flag out')
    cfg.visualizer.vis_backends = [
        *(cfg.visualizer.get('vis_backends') or []), dict(type='TensorboardVisBackend')]


def add_hooks(cfg: Config, folder: Path, skip: int) -> None:
    """Progress, curves, pictures; checkpoints written whole; up to `skip` bad batches left out."""
    interval = cfg.default_hooks.logger.get('interval', 50)
    keep = cfg.default_hooks.checkpoint
    keep.backend_args = dict(backend='whole_file')
    if keep.type == 'CheckpointHook':
        keep.type = 'WholeCheckpointHook'
    if keep.get('max_keep_ckpts') == 1:
        keep.max_keep_ckpts = 2  # one to fall back on if the newest is damaged
    cfg.custom_hooks = [
        *cfg.get('custom_hooks', []),
        dict(type='ProgressHook', interval=interval),
        dict(type='ResumeHook'),
        dict(type='GuardHook', skip=skip),
        dict(type='CurvesHook'),
        dict(type='PicturesHook', folder=str(folder / 'pictures')),
    ]
