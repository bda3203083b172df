"""`effvim plots`: compare training runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from effvim.visualization.plot_files import check_kind, write_plot

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
    check_kind(args.out, '--out')

    from effvim import console
    from effvim.files import ensure_writable
    from effvim.visualization.curves import draw_runs, summarize_runs

    ensure_writable(args.out.parent, '--out')
    write_plot(draw_runs(args.runs), args.out, dpi=130)
    console.show(summarize_runs(args.runs))
    print(f'curves: {args.out}')
