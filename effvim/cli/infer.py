"""TODO effvim.cli.infer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError
from effvim.cli.options import config_parser
from effvim.engine import distributed

if TYPE_CHECKING:
    from argparse import Namespace

from effvim.inference.batch_inference import InferenceJob
from effvim.inference.sources import find_images


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser('tools/infer.py', 'Find objects or classes in pictures.', data=False)
    parser.add_argument('checkpoint', help='the checkpoint; it knows how it was trained')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='IMAGE|DIR|GLOB',
        help='a picture, a folder with all its sub-folders, or a pattern such as "a/*.jpg"',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='where results go')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='leave out objects of lower score (default 0.3)',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='write results for programs too: COCO results, or label maps as PNG',
    )
    parser.add_argument(
        '--batch',
        type=int,
        default=1,
        metavar='N',
        help='pictures that the network sees at once, if of one size (default 1)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit status, 1 if a picture could not be read.

    Raises:
        UserError: a mistake in it, in the config or the checkpoint.
    """
    args = parse(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    distributed.read_environment(args.launcher)
    paths = prepare(args)
    with distributed.joined(args.launcher, backend='gloo', timeout=86400):
        return run(args, paths)


def run(args: Namespace, paths: Sequence[Path]) -> int:
    """Do what `main` says, together with the other processes if there are any."""
    from mmengine import dist

    from effvim.inference.predictor import Predictor

    rank, number = dist.get_dist_info()
    predictor = Predictor(
        args.config,
        args.checkpoint,
        batch_size=args.batch,
        options=args.cfg_options,
        mini=args.mini,
        from_scratch=args.from_scratch,
    )
    job = InferenceJob(args, paths, predictor.classes)
    job.run(predictor, range(rank, len(paths), number))
    parts = dist.all_gather_object((job.entries, job.found, job.broken))
    job.entries, job.found, job.broken = ([x for p in part for x in p] for part in zip(*parts))
    if rank == 0:
        job.finish()
    return 1 if job.broken else 0


def prepare(args: Namespace) -> list[Path]:
    """The pictures, all checked that can be before anything is loaded.

    Raises:
        UserError: a flag out of its range, nothing found, or a folder that cannot be written.
    """
    from effvim.files import ensure_writable

    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr must be from 0 to 1, got {args.score_thr}')
    if args.batch < 1:
        raise UserError(f'--batch must be at least 1, got {args.batch}')
    for path in (args.config, args.checkpoint):
        if not Path(path).is_file():
            raise UserError(f'{path} not found: give a config, a checkpoint, then pictures')
    paths = find_images(args.inputs, Path(args.out))
    ensure_writable(Path(args.out), '--out')
    return paths
