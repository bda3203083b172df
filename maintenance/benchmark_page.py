"""Writes docs/benchmarks.md and its figures from the results in docs/benchmarks/*.json.

python -m maintenance.benchmark_page
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim import console
from effvim.benchmark.figures import PLOTTED, plot
from effvim.benchmark.tables import TABLES, section
from effvim.files import write_atomic

NAMES = {
    'mask rcnn': 'Mask R-CNN',
    'openvino': 'OpenVINO',
    'retinanet': 'RetinaNet',
    'rtmdet': 'RTMDet',
    'semfpn': 'Semantic FPN',
    'm1': 'M1',
    'm4': 'M4',
}

DOCS = Path(__file__).resolve().parents[1] / 'docs'

INTRODUCTION = """\
# Benchmarks

This page is written by `make benchmarks-page` from the JSON files in `docs/benchmarks/`, which hold
the values of every round; `make benchmarks` measures them again, except `exported-*.json`, which
need trained checkpoints. Networks are randomly initialised unless a section says otherwise; speed
does not depend on the weights. Every round runs every case once, in a new random order, so that
temporary slowdowns of the machine affect all cases alike. Latency is the median over the rounds,
with the quartiles in brackets. Speed-ups are computed round by round; above 1 is faster than the
baseline.

- *Efficiency*: achieved FLOP/s relative to a float32 product of two 2048 × 2048 matrices in the
  same rounds. FLOPs are two for each MAC of convolutions and matrix products, and in training three
  times those of the forward pass.
- *Peak memory*: the most that a call allocates from PyTorch beyond weights and input.
- *Saved for backward*: what the forward pass keeps for the backward pass, without the weights.
- *First result*: time from the network in memory to its first result, with fusion and compilation.
- *Parameters* of whole detectors and segmentors are counted in the measured form, those of
  backbones and classifiers before fusion. A fused RTMDet has more than the table of
  [models](models.md): its head shares each convolution between all levels, but each level has a BN
  layer of its own, and fusing this layer gives the level a convolution of its own.
- On a GPU, PyTorch's defaults apply: TF32 in float32 convolutions, not in float32 matrix products.
- Training is a forward and a backward pass with BN in evaluation mode, without an optimiser.
- Post-processing: of a randomly initialised network every score counts, which is the largest
  possible number of boxes to sort. With a checkpoint the score threshold leaves few.
- *Fused* is this project's network after [`fuse()`](speed.md#fusion), or timm's network in timm's
  own re-parameterised form. Networks of timm are feature pyramids, as in a detector, unless a
  section says classifier."""


def page(directory: Path) -> str:
    """The whole page, from the JSON files in a directory.

    Raises:
        UserError: a file was not written by `effvim benchmark`.
    """
    sections, devices = [INTRODUCTION], []
    for path in sorted(directory.glob('*.json')):
        results = read_results(path)
        devices.append(results['machine']['device'])
        sections.append(f'## {heading(path.stem)}\n\n{section(results)}')
        if results['kind'] in PLOTTED:
            sections.append(f'![{path.stem}](benchmarks/{path.stem}.png)')
    for device, missing in (
        ('a CPU', 'CPU' not in devices),
        ('a CUDA GPU', not set(devices) - {'CPU'}),
    ):
        if missing:
            sections.append(f'## On {device}\n\nNot measured.')
    return '\n\n'.join(sections) + '\n'


def heading(name: str) -> str:
    """The heading of a file's section: names as the field writes them."""
    name = re.sub(r'-(\d+)x(\d+)', r', \1 × \2', name).replace('-', ' ')
    for word, written in NAMES.items():
        name = re.sub(rf'\b{word}\b', written, name)
    return name if name.startswith('onnx') else name[0].upper() + name[1:]


def read_results(path: Path) -> dict[str, Any]:
    """Read the JSON file of one benchmark run.

    Raises:
        UserError: the file holds something else.
    """
    try:
        results = json.loads(path.read_text('utf-8'))
        if results['format'] == 1 and results['kind'] in TABLES:
            return results
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(f'{path} was not written by effvim benchmark --json: move it elsewhere')


def main() -> None:
    """Write the page, and the figures next to the JSON files."""
    directory = DOCS / 'benchmarks'
    write_atomic(DOCS / 'benchmarks.md', page(directory).encode())
    for path in directory.glob('*.json'):
        results = read_results(path)
        if results['kind'] in PLOTTED:
            plot(results, path.with_suffix('.png'))
    console.say(f'written: {DOCS / "benchmarks.md"}')


if __name__ == '__main__':
    main()
