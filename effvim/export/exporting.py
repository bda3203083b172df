"""`tools/export.py`: a checkpoint as an ONNX file that finds what it finds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config
    from torch import Tensor


PICTURES = 8  # to compare on

CALIBRATING = 128  # pictures at most, spread over the folder

SHOWN = 5  # faults

SHRINK = (1.0, 0.83, 0.61, 0.47)  # of these, in turn, for a file that takes any size

SMALLEST = 64  # pixels of their shorter side


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it will run, all checked that can be without mmdet, and its description."""
    from effvim.checkpoints import checkpoint, exported
    from effvim.config.editing import set_classes
    from effvim.config.machine import fit_to_machine
    from effvim.config.prepare import apply_spec, check_data, work_directory
    from effvim.config.reading import load_config
    from effvim.config.run_spec import adopt
    from effvim.config.validation import check_model
    from effvim.config.weights import check_variant
    from effvim.export import graph, onnx_file
    from effvim.files import ensure_writable

    onnx_file.require()
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
    cfg = load_config(args.config)
    content = checkpoint.read(args.checkpoint)
    about = adopt(args, content, args.checkpoint)
    apply_spec(cfg, about)
    check_model(cfg)
    if not args.backbone_only:
        graph.check(cfg.model)
    divisor = exported.preparation(cfg.model.data_preprocessor)['divisor']
    if args.normalised and args.size and any(side % divisor for side in args.size):
        raise UserError(
            f'--size {args.size[0]} {args.size[1]}: with --normalised pictures come '
            f'padded, to multiples of {divisor}'
        )
    check_variant(cfg, content, args.checkpoint)
    if args.pictures and about.get('classes') and not args.int8:  # the data set is not needed
        set_classes(cfg, about['classes'])
    else:
        check_data(cfg, about, [cfg.test_dataloader])
    ensure_writable(Path(args.out).parent, '--out')
    folder = work_directory(cfg, args.config, args.work_dir, about['overlays'])
    cfg.work_dir = str(ensure_writable(folder / 'export', '--work-dir'))
    cfg.model.backbone.init_cfg = None  # the checkpoint holds all weights
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    fit_to_machine(cfg)
    return cfg, about


def trained(cfg: Config, about: dict[str, Any], args: Namespace) -> tuple[Any, list[str]]:
    """The trained model, on the CPU, and paths of pictures to compare on.

    Raises:
        UserError: the checkpoint does not fit; there are no pictures.
    """
    from effvim.engine.runner import Runner

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
    from effvim.images import IMAGE_SUFFIXES

    paths = [
        str(path)
        for path in sorted(Path(folder).glob('*'))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not paths:
        raise UserError(f'{flag} {folder}: no {", ".join(IMAGE_SUFFIXES)} in this folder')
    return paths


def in_integers(
    content: bytes, cfg: Config, about: dict[str, Any], args: Namespace
) -> tuple[bytes, str]:
    """The file in 8-bit integers, and what speaks against it: nothing, or that it lost too much."""
    from torch import nn

    from effvim.checkpoints import exported
    from effvim.export import quantization
    from effvim.inference.preprocessing import Prepare

    prepare: nn.Module = nn.Identity()
    if args.normalised:
        prepare = Prepare(**exported.preparation(cfg.model.data_preprocessor))
    paths = in_folder(args.int8, '--int8')
    paths = paths[:: -(-len(paths) // CALIBRATING)]
    images = [resized(path, cfg, args, i) for i, path in enumerate(paths)]
    integers, left = quantization.quantise(content, images, prepare)
    layers = Counter(name.rpartition('/')[0] for name in left)
    print(
        'products left in float32:',
        *(f'{layer}: {count}' for layer, count in layers.items()),
        sep='\n  ',
    )
    before = quantization.measured(cfg, about, content)
    after = quantization.measured(cfg, about, integers)
    lost = quantization.losses(before, after)
    for name in lost:
        print(f'{name}: {before[name]:.4f} in float32, {after[name]:.4f} in integers')
    worst = max(lost.values())
    return integers, '' if worst <= quantization.LOSS else (
        f'in integers it loses {worst:.4f} of 1, more than {quantization.LOSS}'
    )


def resized(path: str, cfg: Config, args: Namespace, number: int) -> Tensor:
    """A picture, 3 H W, at a size to compare at: the file's, or else near that of the test.

    Raises:
        UserError: it cannot be read.
    """
    import mmcv
    import torch

    from effvim.checkpoints.exported import preparation
    from effvim.images import read_image

    image = read_image(path)[..., ::-1]
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
