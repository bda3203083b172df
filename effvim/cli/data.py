"""`effvim data`: one's own pictures with boxes or masks, into the layout that training reads."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import UserError
from effvim.cli.options import CONFIG, Parser
from effvim.config.packaged import config_path


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = Parser(
        prog='effvim data',
        description="One's own pictures with boxes or masks: COCO "
        'JSON, YOLO txt, Pascal VOC XML, mask PNGs.',
    )
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, what in (
        ('convert', 'write another format'),
        ('split', 'divide into train and val'),
        ('stats', 'say what it holds'),
        ('browse', 'draw its boxes and outlines'),
    ):
        one = commands.add_parser(name, help=what, description=what)
        one.add_argument('source', type=Path, help='its folder, or a data.yaml')
        if name != 'stats':
            one.add_argument('target', type=Path, help='a folder that is made')
        one.add_argument(
            '--clip',
            action='store_true',
            help='cut boxes that leave their picture; without, they are an error',
        )
        if name == 'convert':
            one.add_argument(
                '--to',
                choices=('coco', 'yolo', 'voc', 'masks'),
                help='coco, or masks of masks, if this is left out',
            )
        if name == 'split':
            one.add_argument(
                '--val',
                type=float,
                default=0.2,
                metavar='SHARE',
                help='of the pictures to validate on (%(default)s)',
            )
        if name == 'stats':
            one.add_argument(
                '--config',
                type=config_path,
                default='retinanet_effvim_m4',
                help=f'whose anchors are tried on the boxes: {CONFIG}',
            )
            one.add_argument('--json', action='store_true', help='as JSON')
        if name == 'browse':
            one.add_argument(
                '--limit',
                type=int,
                default=16,
                metavar='N',
                help='pictures of each part (%(default)s)',
            )
        if name in ('split', 'browse'):
            one.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Do as the command line says.

    Raises:
        UserError: a mistake in it or in the data.
    """
    args = parse(argv)

    from effvim.files import check_is_new
    from effvim.formats.dataset import checked
    from effvim.formats.detect import read

    if args.command != 'stats':
        check_is_new(args.target)
    if getattr(args, 'limit', 1) < 1:
        raise UserError(f'--limit {args.limit}: a whole number from 1')
    data = checked(read(args.source), args.clip)
    for note in data.notes:
        print('note:', note, file=sys.stderr)
    if args.command == 'stats':
        from rich.console import Console

        from effvim.config.reading import load_config
        from effvim.formats import stats

        found = stats.measure(data, load_config(config_path(args.config)))
        if args.json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            Console().print(stats.table(found))
        return
    if args.command == 'browse':
        from effvim.formats.browse import browse

        print(f'{browse(data, args.target, args.limit, args.seed)} pictures: {args.target}')
        return
    if args.command == 'split':
        from effvim.formats.split import split

        if len(data.parts) > 1:
            print(
                f'note: {", ".join(data.parts)} are merged and divided anew; effvim data convert '
                f'keeps them',
                file=sys.stderr,
            )
        data = split(data, args.val, args.seed)

    from effvim.formats.dataset import counts
    from effvim.formats.write import write

    masks = any(picture.mask for picture in data.pictures())
    kind = getattr(args, 'to', None) or ('masks' if masks else 'coco')
    lost = write(data, args.target, kind)
    for part, pictures in data.parts.items():
        by_class = counts(pictures, data.classes)
        print(
            f'{part}: {len(pictures):,} pictures; '
            + ', '.join(f'{name} {count:,}' for name, count in by_class.items())
        )
        none = [name for name, count in by_class.items() if not count]
        if none:
            print(f'note: {part} has no example of {", ".join(none)}')
    if lost:
        print(f'note: {kind} cannot hold, left out: {", ".join(lost)}')
    print(f'written: {args.target}')
