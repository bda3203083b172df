"""What every command line shares: one-line errors, the flags that mean the same everywhere."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from backbone.errors import UserError

CONFIGS = Path(__file__).with_name('configs')  # part of the package
CONFIG = 'config file, or the name of a packaged one, e.g. retinanet_effvim_m4'


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line.

    Args:
        prog: what a person typed, unless that was `effvim COMMAND`.
    """

    def __init__(self, prog: str, **kwargs: Any) -> None:
        own = sys.argv[0].startswith('effvim ') and not prog.startswith('effvim ')
        super().__init__(prog=sys.argv[0] if own else prog, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f'{message}; see {self.prog} --help')


def config_path(name: str) -> str:
    """The file of a config, which may be given by the name of one of `CONFIGS`."""
    packaged = CONFIGS / f'{name.removesuffix(".py")}.py'
    return str(packaged) if not Path(name).exists() and packaged.is_file() else name


def config_parser(
    prog: str, description: str, data: bool = True, optional: bool = False
) -> Parser:
    """A parser with the flags of every tool that takes a CONFIG.

    data: the tool reads the config's data set, and has a work dir. optional: CONFIG may be left
    out.
    """
    parser = Parser(prog=prog, description=description)
    parser.add_argument('config', nargs='?' if optional else None, type=config_path, help=CONFIG)
    parser.add_argument(
        '--mini', action='store_true',
        help='run on the embedded data set: small drawn scenes, made on the spot, from random '
             'weights; shows that training learns, nothing more',
    )
    parser.add_argument(
        '--from-scratch', action='store_true',
        help='start from random weights: BN statistics are trained, neck and head get group norm, '
             'gradients are clipped',
    )
    if data:
        parser.add_argument('--data-root', metavar='DIR', help='where the data set lies')
        parser.add_argument('--work-dir', metavar='DIR', help='where results go')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
        help='change keys of the config, e.g. train_cfg.max_epochs=1; +KEY=VALUE adds a new key',
    )
    return parser


def run(
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
