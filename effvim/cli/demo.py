"""`effvim demo`: serve a web page to try checkpoints on images and videos."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.kinds import is_exported
from effvim.cli.options import (
    CHECKPOINT,
    add_cfg_options,
    add_launcher,
    add_model,
    add_presets,
    add_runtime,
    runtime_from,
    split_models,
)

HELP = 'serve a web page to try checkpoints on images and videos'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(
        parser,
        '[CONFIG] CHECKPOINT [CHECKPOINT …]',
        f'{CHECKPOINT}; further checkpoints, exported files and names of packaged configs are '
        f'offered for choice and comparison',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        metavar='ADDRESS',
        help='address to listen on (default: 127.0.0.1, which only this machine reaches; 0.0.0.0 '
        'lets in whoever reaches this machine)',
    )
    parser.add_argument(
        '--port', type=int, default=7860, metavar='N', help='port to listen on (default: 7860)'
    )
    parser.add_argument(
        '--examples',
        metavar='DIR',
        help='directory whose first 12 images are offered as examples (default: synthetic images)',
    )
    parser.add_argument(
        '--max-megabytes',
        type=float,
        default=100,
        metavar='N',
        help='refuse larger files (default: 100)',
    )
    parser.add_argument(
        '--max-seconds',
        type=float,
        default=60,
        metavar='S',
        help='predict only the first S seconds of a video, at most 120 × S frames (default: 60)',
    )
    add_runtime(parser)
    add_presets(parser, trained=True)
    add_launcher(parser, refused=True)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted; returns the exit status."""
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the page needs gradio, which is not installed: pip install '.[demo]'")
    if args.launcher != 'none':
        raise UserError('--launcher: the page is one process: drop the flag')
    if not 0 < args.max_megabytes < float('inf'):
        raise UserError(f'--max-megabytes must be above 0, got {args.max_megabytes:g}')
    if not 0 < args.max_seconds < float('inf'):
        raise UserError(f'--max-seconds must be above 0, got {args.max_seconds:g}')
    models = split_models(args.model)
    exported = [model.checkpoint for model in models if is_exported(model.checkpoint)]
    choices = {path: vars(runtime_from(args, path, many=False)) for path in exported}
    if not exported:
        runtime_from(args, models[0].checkpoint, many=False)  # none of its flags can be had
    if args.examples and not Path(args.examples).is_dir():
        raise UserError(f'--examples {args.examples} is not a directory: pass one with images')
    with (
        listen(args.host, args.port) as listener,
        tempfile.TemporaryDirectory(prefix='effvim-') as folder,
    ):
        # Read by gradio: nothing is reported to anybody, and uploads and results are deleted with
        # the page, or after an hour.
        files = Path(folder, 'files')
        files.mkdir()
        os.environ.update(GRADIO_ANALYTICS_ENABLED='False', GRADIO_TEMP_DIR=str(files))

        from effvim.inference.predictor import Predictor
        from effvim.web_page import page
        from effvim.web_page.examples import collect_examples
        from effvim.web_page.video import VideoJobs

        # files are named by what tells them apart
        files_given = [Path(model.word).absolute() for model in models if not model.published]
        root = os.path.commonpath([path.parent for path in files_given]) if files_given else ''
        predictors = {
            model.word if model.published else os.path.relpath(model.word, root): Predictor(
                model.config or model.checkpoint,
                model.checkpoint if model.config else None,
                options=args.cfg_options,
                mini=args.mini,
                from_scratch=args.from_scratch,
                **choices.get(model.checkpoint, {}),
            )
            for model in models
        }
        networks = [predictor.network for predictor in predictors.values()]
        segments = networks[0].segments
        if any(network.segments != segments for network in networks):
            raise UserError('checkpoints of detectors and segmentors cannot share a page')
        examples = collect_examples(args.examples, Path(folder), segments)
        configs = dict.fromkeys(network.name for network in networks)
        jobs = VideoJobs(args.max_seconds)
        blocks = page.build(predictors, examples, ', '.join(configs), segments, jobs)
        server = page.server(blocks, args.max_megabytes)
        host, port = listener.getsockname()[:2]
        host = f'[{host}]' if ':' in host else host
        print(f'page: http://{host}:{port} (Ctrl+C ends it)', flush=True)
        # Not the main thread: open pages keep their connections, and uvicorn would wait for them.
        serving = threading.Thread(target=server.run, args=([listener],), daemon=True)
        serving.start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl+C does
        try:
            # Linux may hand the signal to another thread, and Python's handler runs in this one
            # only when it wakes up.
            while serving.is_alive():
                serving.join(0.5)
            return 1  # ended by itself, and has said why
        except KeyboardInterrupt:
            return 0
        finally:
            jobs.close()  # before the files of its videos are deleted


def listen(host: str, port: int) -> socket.socket:
    """The socket of the page, opened before anything is loaded.

    Raises:
        UserError: the address is none of this machine's, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:  # OverflowError: a port beyond 65535
        raise UserError(
            f'--host {host} --port {port}: cannot listen there: '
            f'{getattr(error, "strerror", None) or error}'
        ) from error
