"""`effvim convert`: published weights as safetensors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from effvim.checkpoints.conversion import Conversion

HELP = (
    'write published weights, or those of a checkpoint, as safetensors under the names of this '
    'project; no code in SOURCE is run'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        'source',
        help="a file of the authors (ImageNet, detector, segmentor), of timm or of this project's "
        'training, or a hub id such as timm/efficientvim_m4.e450_in1k',
    )
    parser.add_argument('dest', help='file to write, *.safetensors')
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        '--ema',
        action='store_const',
        const=True,
        help="take the averaged weights; of the authors' ImageNet files these have the published "
        'top-1',
    )
    choice.add_argument(
        '--raw',
        dest='ema',
        action='store_const',
        const=False,
        help="take the raw weights (default: the file's main entry: raw in the authors' ImageNet "
        'files, from which their detectors and segmentors start; in a checkpoint of this project '
        'what is evaluated)',
    )


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was renamed, reshaped, added and dropped."""
    from effvim import console
    from effvim.checkpoints.conversion import convert

    conversion = convert(args.source, args.dest, args.ema)
    console.show(table(conversion, args.source, args.dest))
    classes = f'{len(conversion.classes)} class names' if conversion.classes else 'no class names'
    print(f'{args.dest}: {conversion.what}, {classes}')


def table(conversion: Conversion, source: str, dest: str) -> Table:
    """How many tensors were read, renamed, reshaped, added, dropped and written, and why."""
    from rich.table import Table

    from effvim.checkpoints.conversion import ENTRIES

    work = conversion.translation
    written = len(work.tensors)
    rendered = Table(
        'tensors', title=f'{conversion.what}, from {conversion.origin}', title_justify='left'
    )
    rendered.add_column('', justify='right')
    rendered.add_column('which and why')
    renamed = patterns(f'{theirs} → {ours}' for theirs, ours in work.renamed.items())
    rows = [
        ('read', written - len(work.added) + len(work.dropped), f'{conversion.entry} in {source}'),
        ('renamed', len(work.renamed), renamed),
        (
            'reshaped',
            len(work.reshaped),
            f'LayerNorms, to one value per channel: {patterns(work.reshaped)}',
        ),
        (
            'added',
            len(work.added),
            f"BN's batch counters, which have no effect: {patterns(work.added)}",
        ),
        (
            'dropped',
            len(work.dropped),
            f"the classifier's, which this network does not have: {patterns(work.dropped)}",
        ),
        ('written', written, f'{dest}, {conversion.size / 2**20:.1f} MiB'),
    ]
    for name, count, why in rows:
        rendered.add_row(name, str(count), why if count else '')
    others = [key for key in conversion.ignored if key in ENTRIES]
    if others:
        rendered.add_row('ignored', '', f'other weights, see --ema and --raw: {", ".join(others)}')
    if len(conversion.ignored) > len(others):
        rendered.add_row(
            'ignored',
            '',
            'not weights: ' + ', '.join(key for key in conversion.ignored if key not in ENTRIES),
        )
    return rendered


def patterns(names: Iterable[str]) -> str:
    """Names with their numbers as stars, each once."""
    return ', '.join(dict.fromkeys(re.sub(r'(?<=\.)\d+(?=\.)', '*', name) for name in names))
