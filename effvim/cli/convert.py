"""TODO effvim.cli.convert."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from effvim.cli.options import Parser

if TYPE_CHECKING:
    from argparse import Namespace

    from rich.table import Table

from effvim.checkpoints.conversion import ENTRIES, Conversion, convert


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = Parser(
        prog='tools/convert_weights.py',
        description='Write published weights, or those of a checkpoint, as safetensors under the '
        'names of this project. No code in SOURCE is run.',
    )
    parser.add_argument(
        'source',
        help='a file of the authors (ImageNet, detector, segmentor), of timm or of our training, '
        'or a hub id such as timm/efficientvim_m4.e450_in1k',
    )
    parser.add_argument('dest', help='the file to write, *.safetensors')
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        '--ema',
        action='store_const',
        const=True,
        help="take the averaged weights: of the authors' ImageNet files those with the published "
        'top-1',
    )
    choice.add_argument(
        '--raw',
        dest='ema',
        action='store_const',
        const=False,
        help='take the raw weights. Default: what the file has in first place, which is raw in the '
        "authors' ImageNet files, as their detectors and segmentors start from it, and what "
        'is evaluated in a checkpoint of our training',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says.

    Raises:
        UserError: as `convert`.
    """
    args = parse(argv)
    done = convert(args.source, args.dest, args.ema)

    from rich.console import Console

    Console(markup=False).print(table(done, args.source, args.dest))
    named = f'{len(done.classes)} class names' if done.classes else 'no class names'
    print(f'{args.dest}: {done.what}, {named}')


def table(done: Conversion, source: str, dest: str) -> Table:
    """How many tensors were read, renamed, reshaped, added, dropped and written, and why."""
    from rich.table import Table

    work = done.translation
    written = len(work.tensors)
    drawn = Table('tensors', title=f'{done.what}, from {done.origin}', title_justify='left')
    drawn.add_column('', justify='right')
    drawn.add_column('which, why')
    renamed = patterns(f'{theirs} → {ours}' for theirs, ours in work.renamed.items())
    rows = [
        ('read', written - len(work.added) + len(work.dropped), f'{done.entry} in {source}'),
        ('renamed', len(work.renamed), renamed),
        (
            'reshaped',
            len(work.reshaped),
            f'LayerNorms, to one number a channel: {patterns(work.reshaped)}',
        ),
        (
            'added',
            len(work.added),
            f'batch counters of BN, which have no effect: {patterns(work.added)}',
        ),
        (
            'dropped',
            len(work.dropped),
            f"a classifier's, which is no part of this: {patterns(work.dropped)}",
        ),
        ('written', written, f'{dest}, {done.size / 2**20:.1f} MiB'),
    ]
    for name, count, why in rows:
        drawn.add_row(name, str(count), why if count else '')
    others = [key for key in done.left if key in ENTRIES]
    if others:
        drawn.add_row('left out', '', f'other weights, see --ema and --raw: {", ".join(others)}')
    if len(done.left) > len(others):
        drawn.add_row(
            'left out',
            '',
            'no weights: ' + ', '.join(key for key in done.left if key not in ENTRIES),
        )
    return drawn


def patterns(names: Iterable[str]) -> str:
    """Names with their numbers as stars, each once."""
    return ', '.join(dict.fromkeys(re.sub(r'(?<=\.)\d+(?=\.)', '*', name) for name in names))
