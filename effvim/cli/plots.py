"""`effvim plots`: compare training runs."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from backbone.errors import UserError

HELP = 'compare training runs: a table of their metrics, and their curves in one plot'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        'runs', nargs='+', type=Path, metavar='WORK_DIR', help='working directories of the runs'
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='FILE', help='plot to write: .png, .svg or .pdf'
    )


def run(args: argparse.Namespace) -> None:
    """Draw the curves and print the table."""
    kind = args.out.suffix.lstrip('.').lower()
    if kind not in ('png', 'svg', 'pdf'):
        raise UserError(f'--out {args.out}: pass a file that ends in .png, .svg or .pdf')

    from effvim import console
    from effvim.files import ensure_writable, write_atomic
    from effvim.visualization.curves import draw_runs, summarize_runs

    ensure_writable(args.out.parent, '--out')
    buffer = io.BytesIO()
    draw_runs(args.runs).savefig(buffer, format=kind, dpi=130)
    write_atomic(args.out, buffer.getvalue())
    console.show(summarize_runs(args.runs))
    print(f'curves: {args.out}')
