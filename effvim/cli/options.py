"""What every command line shares: one-line errors, the flags that mean the same everywhere."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from backbone.errors import UserError
from effvim.config.packaged import config_path

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


def config_parser(prog: str, description: str, data: bool = True, optional: bool = False) -> Parser:
    """A parser with the flags of every tool that takes a CONFIG.

    data: the tool reads the config's data set, and has a work dir. optional: CONFIG may be left
    out.
    """
    parser = Parser(prog=prog, description=description)
    parser.add_argument('config', nargs='?' if optional else None, type=config_path, help=CONFIG)
    parser.add_argument(
        '--mini',
        action='store_true',
        help='run on the embedded data set: small drawn scenes, made on the spot, from random '
        'weights; shows that training learns, nothing more',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
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
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='change keys of the config, e.g. train_cfg.max_epochs=1; +KEY=VALUE adds a new key',
    )
    return parser
