"""`effvim test`: evaluate a checkpoint or an exported file."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from effvim.cli.options import (
    OF_CHECKPOINT,
    add_cfg_options,
    add_data_root,
    add_launcher,
    add_model,
    add_presets,
    add_runtime,
    add_tiling,
    add_work_dir,
    runtime_from,
    settings_from,
    split_model,
    tiling_from,
)
from effvim.config.tiling import Tiling

if TYPE_CHECKING:
    from effvim.engine.settings import EvaluationSettings

HELP = 'evaluate a checkpoint or an exported file'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument('--out', metavar='FILE', help='write the metrics to this JSON file')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='save images with ground truth on the left and predictions on the right',
    )
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='write an HTML report: curves, confusion, predictions, worst errors',
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help='fold BN layers and learned scale factors into the convolutions first: same metrics, '
        'faster',
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision inside backbone, neck and heads'
    )
    parser.add_argument(
        '--tta', action='store_true', help="test-time augmentation, by the config's tta_pipeline"
    )
    parser.add_argument(
        '--raw',
        action='store_true',
        help='evaluate the raw weights of a run with --ema instead of the averaged ones',
    )
    add_tiling(parser)
    add_runtime(parser)
    add_presets(parser, trained=True)
    add_data_root(parser)
    add_work_dir(parser, OF_CHECKPOINT)
    add_launcher(parser)
    add_cfg_options(parser)


def settings_of(args: argparse.Namespace) -> EvaluationSettings:
    """The settings that a parsed command line asks for.

    Raises:
        UserError: a file does not exist, or two flags contradict each other.
    """
    from effvim.engine.settings import EvaluationSettings

    config, checkpoint, _ = split_model(args.model)
    settings = settings_from(
        args,
        EvaluationSettings,
        checkpoint=checkpoint,
        config=config,
        runtime=runtime_from(args, checkpoint, many=False),
        **{'overlap': Tiling.overlap, **tiling_from(args)},
    )
    settings.check()
    from effvim.config.editing import parse_options

    settings.options = parse_options(args.cfg_options)
    return settings


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the metrics."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    settings = settings_of(args)

    from effvim.engine.testing import run_evaluation

    run_evaluation(settings)
