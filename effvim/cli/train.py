"""`effvim train`: train a detector or segmentor."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from effvim.cli.options import (
    CONFIG,
    add_cfg_options,
    add_data_root,
    add_launcher,
    add_presets,
    add_work_dir,
    existing_config,
    settings_from,
)
from effvim.config.augmentation import PRESETS

if TYPE_CHECKING:
    from effvim.engine.settings import TrainSettings

HELP = 'train a detector or segmentor'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_step_arguments(parser)
    add_run_arguments(parser)


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that a single training step depends on."""
    parser.add_argument('config', help=CONFIG)
    parser.add_argument(
        '--data',
        metavar='DIR',
        help='train on your own dataset, as written by "effvim data split": schedule, image size '
        'and anchors are fitted to it, and a report is written at the end',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help='with --data: the long side that most images are resized to, in multiples of 32 '
        '(RTMDet, YOLOX: 64; default: by the sizes of the images)',
    )
    parser.add_argument(
        '--augment',
        choices=PRESETS,
        help="with --data: augmentation of the training images (default: the config's; light where "
        'that joins images by mosaic or mixup)',
    )
    add_presets(parser)
    add_data_root(parser)
    parser.add_argument('--seed', type=int, metavar='N', help="random seed (default: the config's)")
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--ema',
        action='store_true',
        help='average the weights; validation measures the average, checkpoints hold both',
    )
    add_cfg_options(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the other arguments, which only a whole run has."""
    add_work_dir(parser)
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='with --data: number of epochs (default: by the number of images)',
    )
    parser.add_argument(
        '--patience',
        type=int,
        metavar='N',
        help='with --data: stop after N validations in a row without improvement',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        metavar='CKPT',
        help='resume from this checkpoint (default without CKPT: the newest one in the working '
        'directory)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--auto-batch',
        action='store_true',
        help='if the largest training step does not fit into memory, use a smaller batch and '
        'accumulate gradients: same total batch size (default: end with an error that says which)',
    )
    parser.add_argument(
        '--skip-bad-batches',
        type=int,
        metavar='N',
        default=0,
        help='skip up to N batches whose loss or gradient is not finite (default: 0, stop at the '
        'first)',
    )
    parser.add_argument('--tensorboard', action='store_true', help='also write TensorBoard logs')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='run two iterations of everything (train, save, evaluate, resume) and estimate memory '
        'and time of the whole run; keeps nothing',
    )
    add_launcher(parser)


def settings_of(args: argparse.Namespace) -> TrainSettings:
    """The settings that a parsed command line asks for.

    Raises:
        UserError: the config does not exist, or two flags contradict each other.
    """
    from effvim.engine.settings import TrainSettings

    settings = settings_from(args, TrainSettings, config=existing_config(args.config))
    settings.check()
    from effvim.config.editing import parse_options

    settings.options = parse_options(args.cfg_options)
    return settings


def run(args: argparse.Namespace) -> None:
    """Train, or rehearse with `--dry-run`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    settings = settings_of(args)
    if args.dry_run:
        from effvim.checks.dry_run import dry_run

        dry_run(settings)
        return

    from effvim.engine.training import run_training

    run_training(settings)
