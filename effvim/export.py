"""`tools/export.py`: a checkpoint as an ONNX file that finds what it finds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

from .cli import config_parser

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config
    from torch import Tensor

PICTURES = 8  # to compare on
CALIBRATING = 128  # pictures at most, spread over the folder
SHOWN = 5  # faults
SHRINK = (1.0, 0.83, 0.61, 0.47)  # of these, in turn, for a file that takes any size
SMALLEST = 64  # pixels of their shorter side


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser(
        'tools/export.py',
        'Write a checkpoint as an ONNX file, from a raw picture to the final result, run it in '
        'onnxruntime and compare what it finds with PyTorch. A file that differs is not kept.',
    )
    parser.add_argument('checkpoint', help='the checkpoint; it knows how it was trained')
    parser.add_argument('--out', metavar='FILE', required=True, help='the file to write, *.onnx')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'),
        help='height and width of the only pictures that it takes, one at a time',
    )
    sizes.add_argument(
        '--dynamic', action='store_true', help='it takes pictures of any number and size; default'
    )
    parser.add_argument(
        '--normalised', action='store_true',
        help='leave channel order, mean, standard deviation and padding out: it takes float32 as '
             'the network does',
    )
    parser.add_argument(
        '--backbone-only', action='store_true', help='the maps of the backbone instead of results'
    )
    parser.add_argument(
        '--pictures', metavar='DIR',
        help='pictures to compare on; default the first of the validation data',
    )
    parser.add_argument(
        '--int8', metavar='DIR',
        help='compute in 8-bit integers; pictures in DIR, best of training, at most '
             f'{CALIBRATING} of them, tell the ranges. '
             'The file is kept if it loses at most 0.02 of mAP or mIoU on the test data',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; 1 if the file differs from PyTorch and is not kept.

    Raises:
        UserError: a mistake in the command line, the config, the data or the checkpoint.
    """
    args = parse(argv)
    cfg, about = prepare(args)

    from . import checkpoint, config, export_check, export_file, exported

    config.import_plugins(cfg)
    model, paths = trained(cfg, about, args)
    images = [resized(path, cfg, args, i) for i, path in enumerate(paths)]
    kind = 'Backbone' if args.backbone_only else cfg.model.type
    expected = export_check.find(model, images, kind)  # before it is folded
    content = export_file.write(model, cfg, about, kind, args.size, args.normalised)
    try:
        found = export_check.find(exported.ExportedModel(content), images, kind)
    except Exception as error:  # onnxruntime's have no type in common
        raise export_file.unsupported(cfg, error) from error
    outcome = export_check.compare(kind, expected, found, exported.settings(cfg))
    print(f'compared with PyTorch on {len(images)} pictures:', *outcome.lines, sep='\n  ')
    if outcome.faults:
        print(f'{args.out} is not written, it would differ from {args.checkpoint}:',
              *outcome.faults[:SHOWN], sep='\n  ', file=sys.stderr)
        return 1
    if args.int8:
        content, fault = in_integers(content, cfg, about, args)
        if fault:
            print(f'{args.out} is not written: {fault}', file=sys.stderr)
            return 1
    checkpoint.write_whole(args.out, content)
    print(f'exported: {args.out}, {len(content) / 2**20:.1f} MiB')
    return 0


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from . import checkpoint, config, export_file, export_model, session

    export_file.require()
    if args.launcher != 'none':
        raise UserError('--launcher: an export is one process: leave the flag out')
    if not args.out.endswith('.onnx') or Path(args.out).is_dir():
        raise UserError(f'--out {args.out}: name a file, *.onnx')
    if args.size and min(args.size) < SMALLEST:
        raise UserError(f'--size {args.size[0]} {args.size[1]}: at least {SMALLEST} pixels each')
    if args.int8 and args.backbone_only:
        raise UserError('--int8 is judged by results, --backbone-only has none: leave one out')
    for flag, folder in (('--pictures', args.pictures), ('--int8', args.int8)):
        if folder:
            in_folder(folder, flag)
    cfg = config.load_config(args.config)
    content = checkpoint.read(args.checkpoint)
    about = session.adopt(args, content, args.checkpoint)
    session.apply(cfg, about)
    config.check_model(cfg)
    if not args.backbone_only:
        export_model.check(cfg.model)
    divisor = export_model.preparation(cfg.model.data_preprocessor)['divisor']
    if args.normalised and args.size and any(side % divisor for side in args.size):
        raise UserError(f'--size {args.size[0]} {args.size[1]}: with --normalised pictures come '
                        f'padded, to multiples of {divisor}')
    session.check_variant(cfg, content, args.checkpoint)
    if args.pictures and about.get('classes') and not args.int8:  # the data set is not needed
        config.set_classes(cfg, about['classes'])
    else:
        session.check_data(cfg, about, [cfg.test_dataloader])
    config.writable(Path(args.out).parent, '--out')
    folder = config.result_folder(cfg, args.config, args.work_dir, about['overlays'])
    cfg.work_dir = str(config.writable(folder / 'export', '--work-dir'))
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    config.fit_machine(cfg)
    return cfg, about


def trained(cfg: Config, about: dict[str, Any], args: Namespace) -> tuple[Any, list[str]]:
    """The trained model, on the CPU, and paths of pictures to compare on.

    Raises:
        UserError: the checkpoint does not fit; there are no pictures.
    """
    from .runner import Runner

    running = Runner(cfg, about)
    running.load_checkpoint(args.checkpoint)
    if args.pictures:
        paths = in_folder(args.pictures, '--pictures')
    else:
        data = running.test_dataloader.dataset
        paths = [data.get_data_info(i)['img_path'] for i in range(min(PICTURES, len(data)))]
    return running.model.cpu().eval(), paths


def in_folder(folder: str, flag: str) -> list[str]:
    """Paths of the pictures in a folder.

    Raises:
        UserError: there are none.
    """
    from .pictures import SUFFIXES

    paths = [str(path) for path in sorted(Path(folder).glob('*'))
             if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise UserError(f'{flag} {folder}: no {", ".join(SUFFIXES)} in this folder')
    return paths


def in_integers(
    content: bytes, cfg: Config, about: dict[str, Any], args: Namespace
) -> tuple[bytes, str]:
    """The file in 8-bit integers, and what speaks against it: nothing, or that it lost too much."""
    from torch import nn

    from . import export_int8, export_model

    prepare: nn.Module = nn.Identity()
    if args.normalised:
        prepare = export_model.Prepare(**export_model.preparation(cfg.model.data_preprocessor))
    paths = in_folder(args.int8, '--int8')
    paths = paths[::-(-len(paths) // CALIBRATING)]
    images = [resized(path, cfg, args, i) for i, path in enumerate(paths)]
    integers, left = export_int8.quantise(content, images, prepare)
    layers = Counter(name.rpartition('/')[0] for name in left)
    print('products left in float32:',
          *(f'{layer}: {count}' for layer, count in layers.items()), sep='\n  ')
    before = export_int8.measured(cfg, about, content)
    after = export_int8.measured(cfg, about, integers)
    lost = export_int8.losses(before, after)
    for name in lost:
        print(f'{name}: {before[name]:.4f} in float32, {after[name]:.4f} in integers')
    worst = max(lost.values())
    return integers, '' if worst <= export_int8.LOSS else (
        f'in integers it loses {worst:.4f} of 1, more than {export_int8.LOSS}')


def resized(path: str, cfg: Config, args: Namespace, number: int) -> Tensor:
    """A picture, 3 H W, at a size to compare at: the file's, or else near that of the test.

    Raises:
        UserError: it cannot be read.
    """
    import mmcv
    import torch

    from . import pictures
    from .export_model import preparation

    image = pictures.read(path)[..., ::-1]
    if args.size:
        height, width = args.size
    else:
        scales = [step.scale for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
        if scales:
            image = mmcv.imrescale(image, tuple(scales[0]))
        shrink = SHRINK[number % len(SHRINK)]
        height, width = (max(SMALLEST, round(side * shrink)) for side in image.shape[:2])
    if args.normalised:  # boxes end where the file's picture does, padding included
        divisor = preparation(cfg.model.data_preprocessor)['divisor']
        height, width = (side + -side % divisor for side in (height, width))
    image = mmcv.imresize(image, (width, height))
    return torch.from_numpy(image).permute(2, 0, 1)
