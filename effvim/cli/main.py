"""`effvim COMMAND …`: every command's parser, and how a command ends."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from backbone.errors import UserError
from effvim import start_up
from effvim.cli.options import Parser
from effvim.installation import explain_import_error

# Name of a command: its module in this package.
COMMANDS = {
    name: f'effvim.cli.{name}'
    for name in (
        'train',
        'test',
        'infer',
        'demo',
        'export',
        'check',
        'benchmark',
        'convert',
        'weights',
        'data',
        'plots',
        'imagenet',
    )
}


def build_parser() -> Parser:
    """The parser of `effvim`, with a subparser for each command."""
    parser = Parser(
        prog='effvim',
        description='EfficientViM for detection and segmentation with mmdet and mmsegmentation.',
        epilog='effvim COMMAND --help describes a command.',
    )
    parser.add_argument('--version', action='store_true', help='print the version and exit')
    subparsers = parser.add_subparsers(
        dest='command', metavar='COMMAND', title='commands', parser_class=Parser
    )
    for name in COMMANDS:
        command = import_module(COMMANDS[name])
        add_command(subparsers.add_parser(name, help=command.HELP, description=command.HELP), name)
    return parser


def add_command(parser: argparse.ArgumentParser, name: str) -> None:
    """Give a parser the arguments of a command."""
    command = import_module(COMMANDS[name])
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def parse(
    argv: Sequence[str], command: str | None = None, prog: str = 'effvim'
) -> argparse.Namespace:
    """Parse a command line.

    Args:
        argv: its words, without the program's name.
        command: a command whose name is not among `argv`, since the program is that command alone.
        prog: the program's name, for help and messages.

    Raises:
        UserError: it cannot be parsed.
    """
    if command is None:
        parser = build_parser()
        args = parser.parse_args(argv)
        if args.version:
            from effvim import __version__

            print(f'effvim {__version__}')
            parser.exit()
        if args.command is None:
            parser.error(f'no command was given: choose from {", ".join(COMMANDS)}')
        return args
    parser = Parser(prog=prog, description=import_module(COMMANDS[command]).HELP)
    add_command(parser, command)
    return parser.parse_args(argv)


def run(argv: Sequence[str], command: str | None = None, prog: str = 'effvim') -> int:
    """Run a command line; the arguments are those of `parse`.

    Returns:
        The exit status: the command's, 2 after a user's mistake, 130 after an interruption. A
        mistake is printed as one line on stderr (`EFFVIM_DEBUG=1` shows the traceback); a program
        fault keeps its traceback.
    """
    set_process_defaults()
    start_up.collect_rarely()
    try:
        args = parse(argv, command, prog)
        args.argv = [*([command] if command else []), *argv]  # for reports that name it
        return args.run(args) or 0
    except (UserError, ImportError) as error:
        message = str(error) if isinstance(error, UserError) else explain_import_error(error)
        if message is None or os.environ.get('EFFVIM_DEBUG'):
            raise
        print('error:', ' '.join(message.split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    finally:
        start_up.collect_as_usual()


def set_process_defaults() -> None:
    """Set what libraries read from the environment when they are imported."""
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # our errors name the file
    # Read when OpenCV is imported. Its own limit is four times that: 3 GiB for one image.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
    # Read at the first matmul. Without it two equal runs on several threads differ in last digits.
    os.environ.setdefault('MKL_CBWR', 'AUTO')
    warnings.filterwarnings('ignore', module='mm(cv|det|engine|seg)')  # meant for programmers
    warnings.filterwarnings('ignore', 'torch.meshgrid')  # mmdet's call of it
