"""`effvim benchmark`: measure speed and memory of backbones, models, evaluation and training."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.benchmark.settings import (
    FORMS,
    BackboneBenchmark,
    Budget,
    EvaluationBenchmark,
    ModelBenchmark,
)
from effvim.cli import train
from effvim.cli.options import (
    CONFIG,
    add_cfg_options,
    at_least,
    config_of,
    settings_from,
)

HELP = 'measure speed and memory, compared with other networks'

# Kind of a benchmark: its settings and its module.
KINDS: dict[str, tuple[type[Budget], str]] = {
    'backbone': (BackboneBenchmark, 'effvim.benchmark.backbones'),
    'model': (ModelBenchmark, 'effvim.benchmark.models'),
    'evaluation': (EvaluationBenchmark, 'effvim.benchmark.evaluation'),
}
OUTPUTS = ('json', 'markdown', 'plot')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    subparsers = parser.add_subparsers(
        dest='kind', metavar='KIND', title='what to measure', required=True
    )
    backbone = _add(subparsers, 'backbone', 'EfficientViM and models of timm as backbones')
    backbone.add_argument(
        'networks',
        nargs='+',
        metavar='NETWORK[:FORM]',
        help='m1 to m4 (EfficientViM) or names of timm models; without FORM in all of --forms',
    )
    backbone.add_argument(
        '--peers',
        action='store_true',
        help='add the timm models of about the same size as each EfficientViM',
    )
    backbone.add_argument(
        '--classifier',
        action='store_true',
        help='measure with the classification head instead of as feature pyramids',
    )
    backbone.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        default=FORMS,
        help='plain, or some of fused, channels-last and one of compiled (compiled for each size), '
        'dynamic (compiled for one size, then for all), graphs (compiled with CUDA graphs), joined '
        f'by +; or, exported, onnxruntime or openvino (default: {" ".join(FORMS)})',
    )
    _add_network_flags(backbone)

    model = _add(subparsers, 'model', 'a whole detector or segmentor, stage by stage')
    model.usage = '%(prog)s CONFIG [CHECKPOINT] [options]'
    model.add_argument(
        'model',
        nargs='+',
        metavar='CONFIG [CHECKPOINT]',
        help=f'{CONFIG}; then a checkpoint (default: randomly initialised), which may also stand '
        f'alone if it knows its config',
    )
    model.add_argument(
        '--cases',
        nargs='+',
        metavar='NAME[:FORM]',
        default=ModelBenchmark.cases,
        help="own (the config's backbone), a timm model as backbone, another config, or a file of "
        '"effvim export"; FORM is plain, or some of fused, channels-last, compiled (the backbone) '
        'joined by +, of a file onnxruntime or openvino (default: own:channels-last)',
    )
    add_cfg_options(model)
    _add_network_flags(model)

    evaluation = _add(
        subparsers, 'evaluation', 'COCO evaluation of random detections, compared with pycocotools'
    )
    evaluation.add_argument(
        '--images',
        type=int,
        default=EvaluationBenchmark.images,
        metavar='N',
        help='number of images (default: %(default)s)',
    )
    evaluation.add_argument(
        '--detections',
        type=int,
        default=EvaluationBenchmark.detections,
        metavar='N',
        help='detections in each image, at most 100 (default: %(default)s)',
    )
    _add_budget(evaluation, EvaluationBenchmark.rounds)

    memory = _add(
        subparsers,
        'memory',
        'peak memory of training a config; takes the flags of "effvim train" that change a step',
    )
    train.add_step_arguments(memory)


def _add(subparsers: Any, name: str, text: str) -> argparse.ArgumentParser:
    return subparsers.add_parser(name, help=text, description=text)


def _add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the benchmarks of backbones and of models share."""
    parser.add_argument(
        '--sizes',
        nargs='+',
        metavar='HxW',
        default=ModelBenchmark.sizes,
        help='input sizes, height and width in pixels; one number is both (default: 800x1344)',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=ModelBenchmark.batch,
        metavar='N',
        help='images in a batch (default: %(default)s)',
    )
    parser.add_argument(
        '--modes',
        nargs='+',
        choices=['forward', 'train'],
        default=ModelBenchmark.modes,
        help='train is a forward and a backward pass with frozen BN (default: forward)',
    )
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=['float32', 'bfloat16', 'float16', 'int8'],
        default=ModelBenchmark.dtypes,
        help='precision; int8 of exported backbones only (default: float32)',
    )
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        help='where to measure (default: cuda if there is a GPU, else cpu)',
    )
    parser.add_argument(
        '--baseline',
        metavar='NETWORK:FORM',
        help='case that speed-ups refer to (default: the first)',
    )
    _add_budget(parser, ModelBenchmark.rounds)
    parser.add_argument('--plot', metavar='FILE', help='write a figure: .png, .svg or .pdf')


def _add_budget(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument(
        '--threads', type=int, metavar='N', help="CPU threads (default: PyTorch's own choice)"
    )
    parser.add_argument(
        '--rounds',
        type=int,
        default=rounds,
        metavar='N',
        help='maximum number of rounds; each runs every case once (default: %(default)s)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=Budget.seconds,
        metavar='S',
        help='time limit; no round starts that would end later (default: %(default)s)',
    )
    parser.add_argument('--json', metavar='FILE', help='write all results to this JSON file')
    parser.add_argument('--markdown', metavar='FILE', help='write the tables to this file')


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables and write the files that were asked for."""
    if args.kind == 'memory':
        _measure_memory(args)
        return
    check(args)
    settings = settings_of(args)

    from effvim.console import quiet
    from effvim.files import write_atomic

    with quiet():  # torch's own benchmarks warn where there is no CUDA
        from effvim.benchmark import figures, tables, timing

        benchmark = import_module(KINDS[args.kind][1])
    with timing.fixed_threads(args.threads):
        device = timing.choose_device(getattr(args, 'device', 'cpu'))
        measured = benchmark.measure(settings, device)
        results = dict(
            format=1, command=command_of(args.argv), **timing.environment(device), **measured
        )
    text = tables.section(results)
    print(text)
    if args.json:
        content = json.dumps(results, indent=1, allow_nan=False)
        write_atomic(args.json, f'{content}\n'.encode())
    if args.markdown:
        write_atomic(args.markdown, f'{text}\n'.encode())
    if getattr(args, 'plot', None):
        figures.plot(results, Path(args.plot))


def _measure_memory(args: argparse.Namespace) -> None:
    settings = train.settings_of(args)

    from effvim.benchmark.memory import measure_training_memory

    print(measure_training_memory(settings))


def settings_of(args: argparse.Namespace) -> Budget:
    """The settings that a parsed command line asks for.

    Raises:
        UserError: the config or the checkpoint does not exist.
    """
    kind, _ = KINDS[args.kind]
    if kind is not ModelBenchmark:
        return settings_from(args, kind)
    config, checkpoint = config_and_checkpoint(args.model)
    return settings_from(
        args, ModelBenchmark, config=config, checkpoint=checkpoint, options=args.cfg_options
    )


def config_and_checkpoint(words: Sequence[str]) -> tuple[str | None, str | None]:
    """Take CONFIG [CHECKPOINT] or CHECKPOINT apart.

    Raises:
        UserError: a file is absent, or there are too many.
    """
    first, *rest = words
    config = config_of(first)
    checkpoint: str | None = first
    if config:
        checkpoint = rest.pop(0) if rest else None
    if rest:
        raise UserError(f'unexpected argument {rest[0]}: pass CONFIG [CHECKPOINT], then flags')
    if checkpoint and not Path(checkpoint).is_file():
        raise UserError(f'checkpoint {checkpoint} not found: pass an existing file after CONFIG')
    return config, checkpoint


def check(args: argparse.Namespace) -> None:
    """Check that numbers are in range and files can be written.

    Raises:
        UserError: they are not.
    """
    from effvim.files import ensure_writable
    from effvim.visualization.plot_files import check_kind

    for name, least in (
        ('threads', 1),
        ('rounds', 1),
        ('seconds', 0),
        ('batch', 1),
        ('images', 1),
        ('detections', 1),
    ):
        at_least(f'--{name}', getattr(args, name, None), least)
    if getattr(args, 'detections', 0) > 100:
        raise UserError(
            f'--detections must be at most 100, the number that COCO counts in an image, got '
            f'{args.detections}'
        )
    if plot := getattr(args, 'plot', None):
        check_kind(Path(plot), '--plot')
    for name in OUTPUTS:
        if path := getattr(args, name, None):
            if Path(path).is_dir():
                raise UserError(f'--{name} {path} is a directory: pass the name of a file')
            ensure_writable(Path(path).parent, f'--{name}')


def command_of(argv: Sequence[str]) -> str:
    """The command line without the files that it writes."""
    words = iter(argv)
    kept = []
    for word in words:
        name, equals, _ = word.removeprefix('--').partition('=')
        if not word.startswith('--') or name not in OUTPUTS:
            kept.append(word)
        elif not equals:
            next(words)
    return shlex.join(['effvim', *kept])
