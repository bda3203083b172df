"""TODO effvim.cli.plots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from backbone.errors import UserError
from effvim.cli.options import Parser
from effvim.visualization.curves import draw_runs, summarize_runs


def main(argv: Sequence[str] | None = None) -> None:
    """Draw as the command line says.

    Raises:
        UserError: a mistake in it.
    """
    from effvim.files import ensure_writable, write_atomic

    parser = Parser(
        prog='python -m effvim.plots',
        description='Several training runs side by side: a table, and their curves in one plot.',
    )
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN_DIR', help='work dirs')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='.png, .svg, .pdf')
    args = parser.parse_args(argv)
    kind = args.out.suffix.lstrip('.').lower()
    if kind not in ('png', 'svg', 'pdf'):
        raise UserError(f'--out {args.out}: name a file that ends in .png, .svg or .pdf')
    ensure_writable(args.out.parent, '--out')
    buffer = io.BytesIO()
    draw_runs(args.runs).savefig(buffer, format=kind, dpi=130)
    write_atomic(args.out, buffer.getvalue())
    Console().print(summarize_runs(args.runs))
    print(f'curves: {args.out}')
