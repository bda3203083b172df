"""`effvim export`: write a checkpoint as an ONNX file."""

from __future__ import annotations

import argparse
import sys

from backbone.errors import UserError
from effvim.cli.options import (
    add_cfg_options,
    add_data,
    add_launcher,
    add_model,
    add_presets,
    settings_from,
    split_model,
)

HELP = (
    'write a checkpoint as an ONNX file, from the raw image to the final result, and compare it '
    'with PyTorch; a file that differs is not kept'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser, flags='--out FILE [options]')
    parser.add_argument('--out', metavar='FILE', required=True, help='file to write, *.onnx')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width in pixels of the only images that the file takes, one at a time',
    )
    sizes.add_argument(
        '--dynamic',
        action='store_true',
        help='the file takes any number of images of any one size (default)',
    )
    parser.add_argument(
        '--normalised',
        action='store_true',
        help='take float32 as the network does, without channel order, mean, standard deviation '
        'and padding',
    )
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help='output the feature maps of the backbone instead of results',
    )
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='images to compare on (default: the first 8 validation images)',
    )
    parser.add_argument(
        '--int8',
        metavar='DIR',
        help='compute in 8-bit integers, calibrated on at most 128 images of DIR, best training '
        'images; kept if it loses at most 0.02 of mAP or mIoU on the test data',
    )
    add_presets(parser)
    add_data(parser)
    add_launcher(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit status, 1 if the file differs from PyTorch and is not written."""
    from effvim.export.settings import ExportSettings

    if args.launcher != 'none':
        raise UserError('--launcher: an export is one process: drop the flag')
    config, checkpoint, _ = split_model(args.model)
    settings = settings_from(
        args,
        ExportSettings,
        checkpoint=checkpoint,
        config=config,
        size=tuple(args.size) if args.size else None,
    )
    settings.check()

    from effvim.config.editing import parse_options
    from effvim.export.exporting import ExportRejected, run_export

    settings.options = parse_options(args.cfg_options)
    try:
        run_export(settings)
    except ExportRejected as rejection:
        print(rejection, file=sys.stderr)
        return 1
    return 0
