"""`effvim COMMAND …`: the tools of a checkout, wherever this package is installed."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from backbone.errors import UserError
from effvim.cli.options import Parser

COMMANDS = {
    'train': 'train a detector or segmentor',
    'test': 'evaluate a checkpoint or an exported file',
    'infer': 'find objects or classes in pictures',
    'demo': 'a web page: drop a picture, see what is found',
    'export': 'an ONNX file from a checkpoint',
    'check': 'the environment, a data set, weights',
    'benchmark': 'how fast it is, beside others',
    'convert': 'published weights as safetensors',
    'data': "one's own pictures: other formats, a split, statistics",
    'plots': 'several training runs: a table and curves',
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one command; the exit status is its own.

    Raises:
        UserError: there is no such command, or as the command.
    """
    parser = Parser(
        prog='effvim',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='EfficientViM under detectors and segmentors. CONFIG is a file, or the name of '
        "one of\nthis package's, e.g. retinanet_effvim_m4.",
        epilog='\n'.join(f'  {name:<10} {what}' for name, what in COMMANDS.items()),
    )
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help='one of those below')
    parser.add_argument(
        'arguments', nargs=argparse.REMAINDER, metavar='…', help='its own: effvim COMMAND --help'
    )
    args = parser.parse_args(argv)
    sys.argv[0] = f'effvim {args.command}'  # whose help and errors name it
    return import_module(f'effvim.{args.command}').main(args.arguments)


def script() -> int:
    """What the console command calls."""
    return run_main(main)


def run_main(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Call `main(argv)`; returns the exit status: what it returns or 0; 2 after a user's mistake.

    A mistake ends as one line on stderr (`EFFVIM_DEBUG=1` shows the traceback); a program fault
    keeps its traceback.
    """
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # errors come as ours, with the file's name
    # Read when OpenCV is imported. Its own limit is four times that: 3 GiB for one picture.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
    # Read at the first matmul. Without it two equal runs on several threads differ in last digits.
    os.environ.setdefault('MKL_CBWR', 'AUTO')
    warnings.filterwarnings('ignore', module='mm(cv|det|engine|seg)')  # meant for programmers
    try:
        return main(argv) or 0
    except UserError as error:
        if os.environ.get('EFFVIM_DEBUG'):
            raise
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
