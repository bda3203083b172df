"""TODO effvim.cli.demo."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import UserError
from effvim.cli.options import config_parser

if TYPE_CHECKING:
    from argparse import Namespace
from effvim.inference.examples import MAX_EXAMPLES, collect_examples


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line."""
    parser = config_parser(
        'tools/demo.py', 'A web page: drop a picture, see what is found in it.', data=False
    )
    parser.add_argument(
        'checkpoints',
        nargs='+',
        metavar='checkpoint',
        help='the checkpoint; of several, all of this config, the page lets choose',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        metavar='ADDRESS',
        help='where it listens: by default only this machine reaches it; 0.0.0.0 lets in '
        'whoever reaches this machine',
    )
    parser.add_argument('--port', type=int, default=7860, metavar='N', help='default 7860')
    parser.add_argument(
        '--examples',
        metavar='DIR',
        help=f'a folder whose pictures, the first {MAX_EXAMPLES} by name, are offered; by default '
        f'drawn scenes',
    )
    parser.add_argument(
        '--max-megabytes',
        type=float,
        default=20,
        metavar='N',
        help='larger files are refused (default 20)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until interrupted; returns the exit status.

    Raises:
        UserError: a mistake in the command line, in the config or a checkpoint.
    """
    args = parse(argv)
    with listen(args) as listener, tempfile.TemporaryDirectory(prefix='effvim-') as folder:
        # Read by gradio: nothing is reported to anybody, and uploads and results go when the
        # page goes, or after an hour.
        files = Path(folder, 'files')
        files.mkdir()
        os.environ.update(GRADIO_ANALYTICS_ENABLED='False', GRADIO_TEMP_DIR=str(files))

        from effvim.config.reading import load_config
        from effvim.config.structure import is_segmentor

        segments = is_segmentor(load_config(args.config))
        examples = collect_examples(args.examples, Path(folder), segments)

        from effvim.inference.predictor import Predictor

        # named by what tells them apart
        root = os.path.commonpath([Path(p).absolute().parent for p in args.checkpoints])
        predictors = {
            os.path.relpath(path, root): Predictor(
                args.config,
                path,
                options=args.cfg_options,
                mini=args.mini,
                from_scratch=args.from_scratch,
            )
            for path in args.checkpoints
        }

        from effvim.inference import web_page

        shown = web_page.build(predictors, examples, Path(args.config).stem, segments)
        server = web_page.server(shown, args.max_megabytes)
        host, port = listener.getsockname()[:2]
        print(
            f'page: http://{f"[{host}]" if ":" in host else host}:{port} (Ctrl+C ends it)',
            flush=True,
        )
        # Not the main thread: open pages keep their connections, and uvicorn would wait for them.
        serving = threading.Thread(target=server.run, args=([listener],), daemon=True)
        serving.start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl+C does
        with contextlib.suppress(KeyboardInterrupt):
            serving.join()
            return 1  # ended by itself, and has said why
        return 0


def listen(args: Namespace) -> socket.socket:
    """The socket of the page, after all was checked that can be before anything is loaded.

    Raises:
        UserError: gradio is absent, a file is, a flag is out of its range or the port is taken.
    """
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the page needs gradio, which is not installed: pip install -e '.[demo]'")
    if args.launcher != 'none':
        raise UserError('--launcher: the page is one process: leave the flag out')
    if not args.max_megabytes > 0:
        raise UserError(f'--max-megabytes must be above 0, got {args.max_megabytes:g}')
    for path in (args.config, *args.checkpoints):
        if not Path(path).is_file():
            raise UserError(f'{path} not found: give a config, then its checkpoints')
    try:
        family = socket.AF_INET6 if ':' in args.host else socket.AF_INET
        return socket.create_server((args.host, args.port), family=family)
    except (OSError, OverflowError) as error:  # OverflowError: a port beyond 65535
        raise UserError(
            f'--host {args.host} --port {args.port}: cannot listen there: '
            f'{getattr(error, "strerror", None) or error}'
        ) from error
