"""`effvim infer`: predict images in files and directories."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from backbone.errors import UserError
from effvim.cli.options import (
    CHECKPOINT,
    add_cfg_options,
    add_launcher,
    add_model,
    add_presets,
    at_least,
    split_model,
)

HELP = 'detect objects in images, or segment them'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(
        parser,
        '[CONFIG] CHECKPOINT IMAGE|DIR|"GLOB" […]',
        f'{CHECKPOINT}; then images, directories with all their subdirectories, or patterns in '
        f'quotes',
        '--out DIR [options]',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output directory')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='drop objects of lower score, 0 to 1 (default: 0.3)',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='also write results for programs: COCO results, or label maps as PNG',
    )
    parser.add_argument(
        '--annotations',
        metavar='FILE',
        help='COCO annotation file whose image and category ids --json uses (default: that of the '
        "images' directory, if it is in COCO's layout)",
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=1,
        metavar='N',
        help='number of images of one size that the network sees at once (default: 1)',
    )
    add_presets(parser)
    add_launcher(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Predict; returns the exit status, 1 if an image could not be read."""
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr must be from 0 to 1, got {args.score_thr}')
    at_least('--batch', args.batch, 1)
    if args.annotations and not args.json:
        raise UserError('--annotations goes with --json: add --json, or drop it')
    if args.annotations and not Path(args.annotations).is_file():
        raise UserError(f'--annotations {args.annotations} not found: pass an existing file')
    config, checkpoint, inputs = split_model(args.model, 'images')

    from effvim.files import ensure_writable
    from effvim.inference.sources import find_images

    paths = find_images(inputs, Path(args.out))
    ensure_writable(Path(args.out), '--out')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    from effvim.engine import distributed

    distributed.read_environment(args.launcher)
    with distributed.joined(args.launcher, backend='gloo', timeout=86400):
        from mmengine.dist import get_dist_info

        from effvim.inference.batch_inference import predict_files
        from effvim.inference.predictor import Predictor

        predictor = Predictor(
            config or checkpoint,
            checkpoint if config else None,
            batch_size=args.batch,
            options=args.cfg_options,
            mini=args.mini,
            from_scratch=args.from_scratch,
        )
        rank, world_size = get_dist_info()
        unreadable = predict_files(
            predictor,
            paths,
            Path(args.out),
            score_thr=args.score_thr,
            json=args.json,
            annotations=Path(args.annotations) if args.annotations else None,
            rank=rank,
            world_size=world_size,
        )
    return 1 if unreadable else 0
