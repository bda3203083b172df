"""TODO effvim.cli.export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effvim.cli.options import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

from effvim.export.exporting import CALIBRATING, SHOWN, in_integers, prepare, resized, trained


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser(
        'tools/export.py',
        'Write a checkpoint as an ONNX file, from a raw picture to the final result, run it in '
        'onnxruntime and compare what it finds with PyTorch. A file that differs is not kept.',
    )
    parser.add_argument('checkpoint', help='the checkpoint; it knows how it was trained')
    parser.add_argument('--out', metavar='FILE', required=True, help='the file to write, *.onnx')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the only pictures that it takes, one at a time',
    )
    sizes.add_argument(
        '--dynamic', action='store_true', help='it takes pictures of any number and size; default'
    )
    parser.add_argument(
        '--normalised',
        action='store_true',
        help='leave channel order, mean, standard deviation and padding out: it takes float32 as '
        'the network does',
    )
    parser.add_argument(
        '--backbone-only', action='store_true', help='the maps of the backbone instead of results'
    )
    parser.add_argument(
        '--pictures',
        metavar='DIR',
        help='pictures to compare on; default the first of the validation data',
    )
    parser.add_argument(
        '--int8',
        metavar='DIR',
        help='compute in 8-bit integers; pictures in DIR, best of training, at most '
        f'{CALIBRATING} of them, tell the ranges. '
        'The file is kept if it loses at most 0.02 of mAP or mIoU on the test data',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; 1 if the file differs from PyTorch and is not kept.

    Raises:
        UserError: a mistake in the command line, the config, the data or the checkpoint.
    """
    args = parse(argv)
    cfg, about = prepare(args)

    from effvim.checkpoints import exported
    from effvim.config.reading import import_plugins
    from effvim.export import onnx_file, parity
    from effvim.files import write_atomic
    from effvim.inference.exported_model import EffViMExportedModel

    import_plugins(cfg)
    model, paths = trained(cfg, about, args)
    images = [resized(path, cfg, args, i) for i, path in enumerate(paths)]
    kind = 'Backbone' if args.backbone_only else cfg.model.type
    expected = parity.find(model, images, kind)  # before it is folded
    content = onnx_file.write(model, cfg, about, kind, args.size, args.normalised)
    try:
        found = parity.find(EffViMExportedModel(content), images, kind)
    except Exception as error:  # onnxruntime's have no type in common
        raise onnx_file.unsupported(cfg, error) from error
    outcome = parity.compare(kind, expected, found, exported.settings(cfg))
    print(f'compared with PyTorch on {len(images)} pictures:', *outcome.lines, sep='\n  ')
    if outcome.faults:
        print(
            f'{args.out} is not written, it would differ from {args.checkpoint}:',
            *outcome.faults[:SHOWN],
            sep='\n  ',
            file=sys.stderr,
        )
        return 1
    if args.int8:
        content, fault = in_integers(content, cfg, about, args)
        if fault:
            print(f'{args.out} is not written: {fault}', file=sys.stderr)
            return 1
    write_atomic(args.out, content)
    print(f'exported: {args.out}, {len(content) / 2**20:.1f} MiB')
    return 0
