"""`tools/benchmark.py`: how fast this network is, beside others."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from backbone.errors import UserError
from effvim.cli.options import CONFIG, Parser
from effvim.config.packaged import config_path

OUTPUTS = ('json', 'markdown', 'plot')


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = Parser(prog='tools/benchmark.py', description='How fast it is, beside others.')
    commands = parser.add_subparsers(dest='command', required=True)
    backbone = commands.add_parser('backbone', help='this network and others as backbones')
    backbone.add_argument(
        'networks',
        nargs='+',
        metavar='NETWORK[:FORM]',
        help="m1 to m4 are ours, others go by timm's names; without FORM in all of --forms",
    )
    backbone.add_argument(
        '--peers', action='store_true', help="also timm's models of the size of each of ours"
    )
    backbone.add_argument(
        '--classifier', action='store_true', help='with the head, instead of as feature pyramids'
    )
    backbone.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        default=[
            'plain',
            'channels-last',
            'fused',
            'fused+channels-last',
            'compiled',
            'fused+channels-last+compiled',
        ],
        help='plain, or some of fused, channels-last and one of compiled (for each size), dynamic '
        '(as torch.compile by itself: for one size, then for all), graphs (compiled, CUDA '
        'graphs), joined by +; default: %(default)s',
    )
    model = commands.add_parser('model', help='a whole detector or segmentor, split into parts')
    model.add_argument('config', type=config_path, help=CONFIG)
    model.add_argument('checkpoint', nargs='?', help='default: random weights')
    model.add_argument(
        '--cases',
        nargs='+',
        metavar='BACKBONE[:FORM]|CONFIG[:FORM]|FILE.onnx',
        default=['own:channels-last'],
        help="own is the config's backbone, others go by timm's names; a form is plain, or some "
        'of fused, channels-last, compiled (the backbone) joined by +; another config stands '
        'for itself, as does a file of tools/export.py; default: %(default)s',
    )
    model.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='change keys of the config; +KEY=VALUE adds a new key',
    )
    evaluation = commands.add_parser('evaluation', help="COCO's evaluation of made-up detections")
    evaluation.add_argument('--images', type=int, default=5000, help='default: %(default)s')
    evaluation.add_argument(
        '--detections',
        type=int,
        default=50,
        help='in each image, at most 100; default: %(default)s',
    )
    for command in (backbone, model):
        command.add_argument(
            '--sizes',
            nargs='+',
            metavar='HxW',
            default=['800x1344'],
            help='height and width in pixels; one number is both',
        )
        command.add_argument('--batch', type=int, default=1, help='default: %(default)s')
        command.add_argument(
            '--modes',
            nargs='+',
            choices=['forward', 'train'],
            default=['forward'],
            help='train: forward and backward, BN frozen',
        )
        command.add_argument(
            '--dtypes', nargs='+', default=['float32'], choices=['float32', 'bfloat16', 'float16']
        )
        command.add_argument('--device', choices=['cpu', 'cuda'], help='default: CUDA if there is')
        command.add_argument('--baseline', help='one of the cases, default: the first')
    for command in (backbone, model, evaluation):
        command.add_argument('--threads', type=int, help="default: PyTorch's own choice")
        command.add_argument(
            '--rounds',
            type=int,
            default=1 if command is evaluation else 20,
            help='each runs every case once; at most %(default)s',
        )
        command.add_argument(
            '--seconds',
            type=float,
            default=120,
            help='no round that would end later; default: %(default)s',
        )
        command.add_argument('--json', metavar='FILE', help='write all there is')
        command.add_argument('--markdown', metavar='FILE', help='write the tables')
    for command in (backbone, model):
        command.add_argument('--plot', metavar='FILE', help='draw it, e.g. to a PNG')
    commands.add_parser('page', help='write docs/benchmarks.md from docs/benchmarks/*.json')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure as the command line says and write what it asks for.

    Raises:
        UserError: a mistake in it.
    """
    args = parse(argv)
    check(args)

    from effvim.console import quiet
    from effvim.files import write_atomic

    with quiet():  # torch's own benchmarks speak of CUDA where there is none
        from effvim.benchmark import figures, timing
        from effvim.benchmark import tables as page
        from maintenance import benchmark_page

    if args.command == 'page':
        benchmark_page.write_page()
        return
    measure = import_module(f'.benchmark_{args.command}', __package__).measure
    with timing.settings(args.threads):
        device = timing.choose_device(getattr(args, 'device', 'cpu'))
        found = measure(args, device)
        results = dict(
            format=1,
            command=command_of(sys.argv[1:] if argv is None else argv),
            **timing.surroundings(device),
            **found,
        )
    text = page.section(results)
    print(text)
    if args.json:
        content = json.dumps(results, indent=1, allow_nan=False)
        write_atomic(args.json, f'{content}\n'.encode())
    if args.markdown:
        write_atomic(args.markdown, f'{text}\n'.encode())
    if getattr(args, 'plot', None):
        figures.plot(results, Path(args.plot))


def check(args: Namespace) -> None:
    """See that numbers are in range and files can be written.

    Raises:
        UserError: they are not.
    """
    from effvim.files import ensure_writable

    for flag, least in (
        ('threads', 1),
        ('rounds', 1),
        ('seconds', 0),
        ('batch', 1),
        ('images', 1),
        ('detections', 1),
    ):
        value = getattr(args, flag, None)
        if value is not None and value < least:
            raise UserError(f'--{flag} must be at least {least}, got {value}')
    if getattr(args, 'detections', 0) > 100:
        raise UserError(f'--detections: COCO counts at most 100 in an image, got {args.detections}')
    for flag in OUTPUTS:
        if path := getattr(args, flag, None):
            if Path(path).is_dir():
                raise UserError(f'--{flag} {path} is a folder: name a file')
            ensure_writable(Path(path).parent, f'--{flag}')


def command_of(argv: Sequence[str]) -> str:
    """The command line without the files that it writes."""
    words = iter(argv)
    kept = []
    for word in words:
        name, given, _ = word.removeprefix('--').partition('=')
        if not word.startswith('--') or name not in OUTPUTS:
            kept.append(word)
        elif not given:
            next(words)
    return shlex.join(['tools/benchmark.py', *kept])
