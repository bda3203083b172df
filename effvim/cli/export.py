"""`effvim export`: write a checkpoint as a file for onnxruntime, OpenVINO and other runtimes."""

from __future__ import annotations

import argparse
import sys

from backbone.errors import UserError
from effvim.cli.options import (
    EXPORTABLE,
    OF_CHECKPOINT,
    add_cfg_options,
    add_data_root,
    add_launcher,
    add_model,
    add_presets,
    add_work_dir,
    settings_from,
    split_model,
)
from effvim.export.settings import FORMATS

HELP = 'write a checkpoint as a file for onnxruntime, OpenVINO and other runtimes'
DESCRIPTION = """\
Write a checkpoint as a file that another runtime runs.
Files for onnxruntime and OpenVINO take the pixels of an image and return the final result;
those for ncnn, LiteRT, ExecuTorch, Core ML and TensorRT end before NMS.
The file is compared with PyTorch, and not written if it differs (of Core ML: the network before its
conversion)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = DESCRIPTION
    add_model(parser, text=EXPORTABLE, flags='--out FILE [options]')
    parser.add_argument(
        '--out',
        metavar='FILE',
        required=True,
        help='file to write: *.onnx, *.xml (OpenVINO), *.ncnn.param, *.tflite (LiteRT), *.pte '
        '(ExecuTorch), *.mlpackage (Core ML), *.trt.onnx (TensorRT, in 16 bits); what belongs to '
        'it goes next to it',
    )
    parser.add_argument(
        '--format',
        choices=FORMATS,
        help='format, if --out has no suffix (default: by the suffix of --out)',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='accept only one image, of this height and width in pixels (default of *.onnx and '
        '*.xml: any number of images of any one size; of the others: the size to which the config '
        'pads all images, if it does, otherwise --size is required)',
    )
    parser.add_argument(
        '--normalised',
        action='store_true',
        help='leave channel order, normalisation and padding to the caller; the input is float32',
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
        help='compute in 8-bit integers, calibrated on at most 128 images of DIR, preferably '
        'training images; kept if it loses at most 0.02 of mAP or 2 points of mIoU on the test '
        'data',
    )
    add_presets(parser, trained=True)
    add_data_root(parser)
    add_work_dir(parser, OF_CHECKPOINT)
    add_launcher(parser, refused=True)
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
    from effvim.export.acceptance import ExportRejected
    from effvim.export.exporting import run_export

    settings.options = parse_options(args.cfg_options)
    try:
        run_export(settings)
    except ExportRejected as rejection:
        print(rejection, file=sys.stderr)
        return 1
    return 0
