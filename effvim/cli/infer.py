"""`effvim infer`: predict images, videos, cameras and streams."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import UserError
from effvim import console
from effvim.cli.options import (
    CHECKPOINT,
    add_cfg_options,
    add_launcher,
    add_model,
    add_presets,
    add_runtime,
    add_tiling,
    at_least,
    runtime_from,
    settings_from,
    split_model,
    tiling_from,
)
from effvim.inference.saved_formats import FORMATS
from effvim.video.settings import CODECS, TRACKERS, VideoSettings, check_installed

HELP = 'detect objects in images and videos, or segment them'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(
        parser,
        '[CONFIG] CHECKPOINT SOURCE […]',
        f'{CHECKPOINT}; then SOURCE: images, videos, directories with all their '
        f'subdirectories, patterns in quotes, the number of a camera, an rtsp:// or http:// '
        f'address, a text file of paths (*.txt), or - for paths on standard input',
        '--out DIR [options]',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output directory')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='S',
        help='drop objects of lower score, 0 to 1 (default: 0.3); with --track they may continue '
        'a track',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME',
        help='drop objects of all other classes',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='also write results for programs: COCO results, or label maps as PNG; of videos a '
        'line for each frame',
    )
    parser.add_argument(
        '--save',
        nargs='+',
        action='extend',
        choices=FORMATS,
        default=[],
        metavar='FORMAT',
        help=f'also write files of other programs for each image: {", ".join(FORMATS)}',
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
        help='number of images of one size, with --tile of tiles, that the network sees at once '
        '(default: 1)',
    )
    add_tiling(parser)
    _add_video(parser)
    _add_tracking(parser)
    add_runtime(parser, streams=0)
    add_presets(parser, trained=True)
    add_launcher(parser)
    add_cfg_options(parser)


def _add_video(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('videos, cameras and streams')
    group.add_argument(
        '--codec',
        choices=CODECS,
        default='h264',
        help='codec of annotated videos (default: h264, whose encoder is under the GPL)',
    )
    group.add_argument(
        '--stride',
        type=int,
        default=1,
        metavar='N',
        help='predict and write every N-th frame (default: 1)',
    )
    group.add_argument(
        '--start', type=float, default=0, metavar='S', help='skip the first S seconds (default: 0)'
    )
    group.add_argument(
        '--end', type=float, metavar='S', help='stop S seconds after the start of the video'
    )
    group.add_argument(
        '--reconnect',
        type=int,
        default=5,
        metavar='N',
        help='attempts to connect again to a camera or stream, after 1, 2, 4 … seconds '
        '(default: 5)',
    )
    group.add_argument(
        '--show',
        action='store_true',
        help='show the annotated frames in the browser, on a page that only this machine reaches',
    )


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('tracking and counting in videos')
    group.add_argument(
        '--track',
        nargs='?',
        const='bytetrack',
        choices=TRACKERS,
        help='track objects (without a value: with bytetrack)',
    )
    group.add_argument(
        '--mot',
        action='store_true',
        help='with --track: also write the tracks in the format of MOTChallenge',
    )
    group.add_argument(
        '--zone',
        dest='zones',
        type=points,
        action='append',
        default=[],
        metavar='X,Y,X,Y,X,Y[,…]',
        help='count the objects in a polygon, in pixels; may be repeated',
    )
    group.add_argument(
        '--line',
        dest='lines',
        type=points,
        action='append',
        default=[],
        metavar='X,Y,X,Y',
        help='with --track: count the objects that cross a line, in pixels; may be repeated',
    )


def points(text: str) -> list[tuple[float, float]]:
    """The points X,Y,X,Y,…; an argparse type."""
    try:
        values = [float(word) for word in text.split(',')]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f'takes pairs X,Y,X,Y,… of numbers, got {text!r}')
    return list(zip(values[::2], values[1::2]))


def refuse_video_flags(args: argparse.Namespace) -> None:
    """Check that no flag asks for what images do not have.

    Raises:
        UserError: one does.
    """
    defaults = vars(VideoSettings())
    for flag in ('track', 'zones', 'lines', 'mot', 'stride', 'start', 'end', 'codec', 'show'):
        if getattr(args, flag) and getattr(args, flag) != defaults.get(flag):
            raise UserError(
                f'--{flag.removesuffix("s")}: there is no video among the sources; frames in image '
                f'files become one, e.g. by ffmpeg -i frames/%06d.jpg frames.mp4'
            )


@contextlib.contextmanager
def memory_explained() -> Iterator[None]:
    """Turn an error of memory into one line that says what to do.

    Raises:
        UserError: memory is exhausted.
    """
    try:
        yield
    except Exception as error:
        from effvim.engine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        raise UserError(
            'memory is exhausted: pass a smaller --batch, or --tile N for large images'
        ) from error


def run(args: argparse.Namespace) -> int:
    """Predict; returns the exit status, 1 if a source could not be read."""
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr must be from 0 to 1, got {args.score_thr}')
    at_least('--batch', args.batch, 1)
    if args.annotations and not args.json:
        raise UserError('--annotations goes with --json: add --json, or drop it')
    if args.annotations and not Path(args.annotations).is_file():
        raise UserError(f'--annotations {args.annotations} not found: pass an existing file')
    config, checkpoint, inputs = split_model(args.model, 'sources')
    tiling = tiling_from(args)
    choices = runtime_from(args, checkpoint, many=True)

    from effvim.config.packaged import published_or_given
    from effvim.files import ensure_writable
    from effvim.inference.sources import find_sources

    out = Path(args.out)
    sources = find_sources(inputs, out, sys.stdin)
    videos = bool(sources.videos or sources.live)
    settings = settings_from(args, VideoSettings)
    settings.check()
    if args.save and not sources.images:
        raise UserError('--save is for images, and there is none among the sources')
    if videos:
        check_installed()

        from effvim.inference import result_folders
        from effvim.video.outputs import folders

        for folder in folders(out, settings):
            result_folders.check(folder)
    else:
        refuse_video_flags(args)
    ensure_writable(out, '--out')
    checkpoint, config = published_or_given(checkpoint, config)  # last: it may be a download
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    from effvim.engine import distributed

    distributed.read_environment(args.launcher)
    joined = distributed.joined(args.launcher, backend='gloo', timeout=86400)
    with joined, memory_explained():
        from effvim.inference.batch_inference import predict_files
        from effvim.inference.predictor import Predictor

        predictor = Predictor(
            config or checkpoint,
            checkpoint if config else None,
            batch_size=args.batch,
            **tiling,
            **vars(choices),
            options=args.cfg_options,
            mini=args.mini,
            from_scratch=args.from_scratch,
        )
        rank, world_size = distributed.launched(args.launcher)
        problems = list(sources.unreadable)
        if rank == 0:
            console.error(*(f'skipped: {problem}' for problem in problems))
        if sources.images:
            problems += predict_files(
                predictor,
                sources.images,
                out,
                score_thr=args.score_thr,
                classes=args.classes,
                json=args.json,
                annotations=Path(args.annotations) if args.annotations else None,
                formats=args.save,
                rank=rank,
                world_size=world_size,
            )
        if videos:
            from effvim.video.batch import predict_videos
            from effvim.video.live_page import LivePage

            with contextlib.ExitStack() as stack:
                page = stack.enter_context(LivePage()) if args.show and rank == 0 else None
                if page:
                    console.say(f'page: {page.address}')
                problems += predict_videos(
                    predictor,
                    sources.videos,
                    sources.live,
                    out,
                    settings,
                    show=page.show if page else None,
                    rank=rank,
                    world_size=world_size,
                )
    return 1 if problems else 0
