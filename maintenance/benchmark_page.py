"""TODO maintenance.benchmark_page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.benchmark.figures import PLOTTED, plot
from effvim.benchmark.tables import TABLES, section
from effvim.files import write_atomic
from maintenance.tables import ROOT

DOCS = ROOT / 'docs'

INTRODUCTION = """\
# Benchmarks

Written by `make benchmarks-page` from the JSON files in [benchmarks](benchmarks), which hold every
round; `make benchmarks` measures anew. Networks have random weights unless a section says
otherwise; their speed does not depend on them. What the machine does meanwhile falls on all alike:
every round runs every case once, in an order drawn anew. Latency is the median over the rounds and,
in brackets, the quartiles; ratios are taken round by round, above 1 is faster than the baseline.

- *Share*: two operations for each of the MACs (of convolutions and matrix products, three times the
  forward pass in training) by the latency, against the rate of a float32 product of two 2048 × 2048
  matrices in the same rounds.
- *Peak*: what a call takes from PyTorch's allocator beyond weights and input, at its worst moment.
- *Saved*: what the forward pass keeps for the backward pass, weights not counted.
- *First result*: from the network in memory to the result, folding and compilation included.
- On a GPU PyTorch's defaults: TF32 in float32 convolutions, not in float32 products.
- Training is a forward and a backward pass with BN in evaluation mode, without an optimiser.
- Post-processing: with random weights every score counts, the most that there can be to sort. With
  a checkpoint the score threshold leaves few.
- *Fused* is this project's folded form, or timm's own re-parameterised one. Networks of timm are
  feature pyramids, as a detector uses them, unless it says classifier."""


def page(folder: Path) -> str:
    """The whole page, from the JSON files in `folder`.

    Raises:
        UserError: a file is not one of `tools/benchmark.py`.
    """
    parts, devices = [INTRODUCTION], []
    for path in sorted(folder.glob('*.json')):
        results = read(path)
        devices.append(results['machine']['device'])
        parts.append(f'## {path.stem.replace("-", " ").capitalize()}\n\n{section(results)}')
        if results['kind'] in PLOTTED:
            parts.append(f'![{path.stem}](benchmarks/{path.stem}.png)')
    for what, missing in (
        ('a CPU', 'CPU' not in devices),
        ('a CUDA GPU', not set(devices) - {'CPU'}),
    ):
        if missing:
            parts.append(f'## On {what}\n\nNot measured.')
    return '\n\n'.join(parts) + '\n'


def read(path: Path) -> dict[str, Any]:
    """The results of one run.

    Raises:
        UserError: the file holds something else.
    """
    try:
        results = json.loads(path.read_text())
        if results['format'] == 1 and results['kind'] in TABLES:
            return results
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(f'{path} was not written by tools/benchmark.py --json: move it elsewhere')


def write_page() -> None:
    """Write docs/benchmarks.md and the pictures beside the JSON files.

    Raises:
        UserError: this is no checkout.
    """
    folder = DOCS / 'benchmarks'
    if not folder.is_dir():
        raise UserError(f'{folder} not found: the page is written in a checkout of the repository')
    write_atomic(DOCS / 'benchmarks.md', page(folder).encode())
    for path in folder.glob('*.json'):
        results = read(path)
        if results['kind'] in PLOTTED:
            plot(results, path.with_suffix('.png'))
    print(f'page: {DOCS / "benchmarks.md"}')
