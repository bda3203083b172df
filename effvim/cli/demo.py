"""`effvim demo`: serve a web page to try a checkpoint on images."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path

from backbone.errors import UserError
from effvim.cli.options import (
    CHECKPOINT,
    add_cfg_options,
    add_launcher,
    add_model,
    add_presets,
    split_model,
)

HELP = 'serve a web page to try checkpoints on images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(
        parser,
        '[CONFIG] CHECKPOINT [CHECKPOINT …]',
        f'{CHECKPOINT}; further checkpoints are offered for choice',
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
        default=20,
        metavar='N',
        help='refuse larger files (default: 20)',
    )
    add_presets(parser)
    add_launcher(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted; returns the exit status."""
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the page needs gradio, which is not installed: pip install '.[demo]'")
    if args.launcher != 'none':
        raise UserError('--launcher: the page is one process: drop the flag')
    if not args.max_megabytes > 0:
        raise UserError(f'--max-megabytes must be above 0, got {args.max_megabytes:g}')
    config, first, others = split_model(args.model, 'checkpoints', required=False)
    checkpoints = [first, *others]
    for path in checkpoints:
        if not Path(path).is_file():
            raise UserError(f'checkpoint {path} not found: pass existing files')
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

        from effvim.inference import web_page
        from effvim.inference.examples import collect_examples
        from effvim.inference.predictor import Predictor

        # named by what tells them apart
        root = os.path.commonpath([Path(path).absolute().parent for path in checkpoints])
        predictors = {
            os.path.relpath(path, root): Predictor(
                config or path,
                path if config else None,
                options=args.cfg_options,
                mini=args.mini,
                from_scratch=args.from_scratch,
            )
            for path in checkpoints
        }
        networks = [predictor.network for predictor in predictors.values()]
        segments = networks[0].segments
        if any(network.segments != segments for network in networks):
            raise UserError('checkpoints of detectors and segmentors cannot share a page')
        examples = collect_examples(args.examples, Path(folder), segments)
        page = web_page.build(predictors, examples, networks[0].name, segments)
        server = web_page.server(page, args.max_megabytes)
        host, port = listener.getsockname()[:2]
        host = f'[{host}]' if ':' in host else host
        print(f'page: http://{host}:{port} (Ctrl+C ends it)', flush=True)
        # Not the main thread: open pages keep their connections, and uvicorn would wait for them.
        serving = threading.Thread(target=server.run, args=([listener],), daemon=True)
        serving.start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl+C does
        with contextlib.suppress(KeyboardInterrupt):
            serving.join()
            return 1  # ended by itself, and has said why
        return 0


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
