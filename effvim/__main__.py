"""`effvim COMMAND …`: the tools of a checkout, wherever this package is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .cli import Parser, run

COMMANDS = {
    'train': 'train a detector or segmentor',
    'test': 'evaluate a checkpoint or an exported file',
    'infer': 'find objects or classes in pictures',
    'demo': 'a web page: drop a picture, see what is found',
    'export': 'an ONNX file from a checkpoint',
    'check': 'the environment, a data set, weights',
    'benchmark': 'how fast it is, beside others',
    'convert': 'published weights as safetensors',
    'data': 'one\'s own pictures: other formats, a split, statistics',
    'plots': 'several training runs: a table and curves',
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run one command; the exit status is its own.

    Raises:
        UserError: there is no such command, or as the command.
    """
    parser = Parser(
        prog='effvim', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='EfficientViM under detectors and segmentors. CONFIG is a file, or the name of '
                    'one of\nthis package\'s, e.g. retinanet_effvim_m4.',
        epilog='\n'.join(f'  {name:<10} {what}' for name, what in COMMANDS.items()))
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help='one of those below')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='…',
                        help='its own: effvim COMMAND --help')
    args = parser.parse_args(argv)
    sys.argv[0] = f'effvim {args.command}'  # whose help and errors name it
    return import_module(f'effvim.{args.command}').main(args.arguments)


def script() -> int:
    """What the console command calls."""
    return run(main)


if __name__ == '__main__':
    sys.exit(script())
