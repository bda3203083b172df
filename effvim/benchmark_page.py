"""docs/benchmarks.md and its pictures, from the JSON files of `tools/benchmark.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backbone import ARCHS
from backbone.errors import UserError

from .benchmark_backbone import PEERS
from .benchmark_cases import compilation
from .benchmark_timing import ratio
from .checkpoint import write_whole
from .cli import CONFIGS
from .tables import ROOT, TOP1, header, row

DOCS = ROOT / 'docs'
PLOTTED = ('backbone', 'model')
SUMS = ('network', 'total')  # among the parts of a model
# Box AP on COCO val2017 after 12 epochs, by the repositories of the peers that timm has: of
# RetinaNet, of Mask R-CNN. Those of ours stand in the headers of the configs.
PUBLISHED = {
    'shvit_s4': (38.8, 39.0),
    'repvit_m1_1': (None, 39.8),
    'efficientvit_m4': (32.7, None),
    'poolformer_s12': (36.2, 37.3),
    'resnet50': (36.5, 38.2),
}
INTRODUCTION = '''\
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
  feature pyramids, as a detector uses them, unless it says classifier.'''


def section(results: dict[str, Any]) -> str:
    """The tables of one run, in Markdown."""
    machine = results['machine']
    device = machine['processor'] if machine['device'] == 'CPU' else machine['device']
    versions = ', '.join(f'{name} {v.split(" ")[-1]}' for name, v in results['versions'].items())
    return '\n'.join([
        f'`{results["command"]}`',
        '',
        f'{results["date"]}, {device}, {machine["threads"]} of {machine["cores"]} cores '
        f'({machine["instructions"]}), {machine["system"]}; {versions}; '
        f'{results["rounds"]} rounds.',
        *TABLES[results['kind']](results),
        *failures(results.get('failed')),
    ])


def failures(failed: list[dict[str, Any]] | None) -> Iterator[str]:
    """What could not be compiled."""
    if failed:
        yield from ('', '`torch.compile` gave up on', '')
        for case in failed:
            yield f'- {label(case)}, {heading(setting(case))}: `{case["error"]}`'


def number(value: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def spread(values: dict[str, float] | None, scale: float = 1) -> str:
    """Median and quartiles."""
    if values is None:
        return '–'
    median, q1, q3 = (number(scale * values[key]) for key in ('median', 'q1', 'q3'))
    return f'{median} ({q1}–{q3})'


def mebibytes(value: int | None) -> str:
    """Bytes in MiB."""
    return '–' if value is None else number(value / 2**20)


def header_row(*cells: str) -> Iterator[str]:
    """An empty line and the first two rows of a table."""
    yield from ('', row(*cells), row(*['---'] * len(cells)))


def label(case: dict[str, Any]) -> str:
    """Network and form, ours in bold."""
    name = f'{case["network"]}:{case["form"]}'
    return f'**{name}**' if case['network'] in (*ARCHS, 'own') else name


def setting(case: dict[str, Any]) -> tuple[Any, ...]:
    """What cases must have in common to be compared."""
    return tuple(case[key] for key in ('mode', 'dtype', 'batch', 'height', 'width'))


def by_setting(cases: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The cases in groups that can be compared."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(setting(case), []).append(case)
    return groups


def heading(group: tuple[Any, ...]) -> str:
    """A setting in words."""
    mode, dtype, batch, height, width = group
    return f'{mode}, {dtype}, {batch}×{height}×{width}'


def is_compiled(case: dict[str, Any]) -> bool:
    """Whether the form is one of torch.compile's."""
    return compilation(case['form']) is not None


def fastest(cases: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The case of least median latency; None of none."""
    return min(cases, key=lambda case: case['latency_s']['median'], default=None)


def backbone_tables(results: dict[str, Any]) -> Iterator[str]:
    """Every case; best against best; what several sizes or precisions show."""
    cases = results['cases']
    yield ''
    yield (f'A product of two 2048 × 2048 matrices in float32: '
           f'{spread(results["matmul"], 1e-9)} GFLOP/s. Ratios: to {results["baseline"]}.')
    for group, members in by_setting(cases).items():
        yield from ('', f'### {heading(group)}')
        yield from header_row('network:form', 'latency, ms', 'ratio', 'images/s', 'share',
                              'peak, MiB', 'saved, MiB', 'MACs of an image, M', 'parameters, M',
                              'first result, s')
        for case in sorted(members, key=lambda case: case['latency_s']['median']):
            yield row(
                label(case), spread(case['latency_s'], 1e3), spread(case['ratio']),
                number(case['throughput']), f'{case["share"]["median"]:.2f}',
                mebibytes(case['peak_bytes']), mebibytes(case['saved_bytes']),
                number(case['macs'] / case['batch'] / 1e6), number(case['parameters'] / 1e6),
                number(case['form_s'] + case['first_s']))
    for table in (best_table, precision_table, sizes_table):
        yield from table(cases)


def best_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Ours in its best form against each other network in its own."""
    rows = []
    for group, members in by_setting(cases).items():
        names = dict.fromkeys(case['network'] for case in members)
        pairs = [(arch, name) for arch in names if arch in ARCHS for name in names
                 if name not in ARCHS and (name in PEERS[arch] or len(names & ARCHS.keys()) == 1)]
        for arch, name in pairs:
            ours, others = ([case for case in members if case['network'] == n]
                            for n in (arch, name))
            plain = [case for case in others if case['form'] == 'plain']
            compared = [
                (fastest(c for c in ours if not is_compiled(c)), fastest(plain)),
                (fastest(c for c in ours if not is_compiled(c)),
                 fastest(c for c in others if not is_compiled(c))),
                (fastest(ours), fastest(c for c in others if is_compiled(c))),
                (fastest(ours), fastest(others)),
            ]  # fmt: skip
            saved = [c['saved_bytes'] for c in (fastest(ours), fastest(plain) or fastest(others))
                     if c]
            rows.append(row(
                heading(group), f'**{arch}**', name,
                *(spread(ratio(b['seconds'], a['seconds'])) if a and b else '–'
                  for a, b in compared),
                f'{saved[0] / saved[1]:.2f}' if all(saved) else '–'))
    if rows:
        yield from ('', '### Best against best')
        yield from header_row('setting', 'ours', 'other', 'uncompiled over its plain form',
                              'uncompiled over its best uncompiled', 'over its best compiled',
                              'best over best', 'saved, share of its plain form')
        yield from rows


def precision_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Each network's fastest form in lower precision against its fastest in float32."""
    groups = by_setting(cases)
    rows = []
    for group, members in groups.items():
        mode, dtype, *size = group
        wide = groups.get((mode, 'float32', *size), [])
        for name in dict.fromkeys(case['network'] for case in members if dtype != 'float32'):
            narrow_best, wide_best = (fastest(case for case in some if case['network'] == name)
                                      for some in (members, wide))
            if narrow_best and wide_best:
                rows.append(row(label(narrow_best), heading(group), label(wide_best),
                                spread(ratio(wide_best['seconds'], narrow_best['seconds']))))
    if rows:
        yield from ('', '### Lower precision over float32')
        yield from header_row('fastest form', 'setting', 'fastest in float32', 'ratio')
        yield from rows


def sizes_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """What a network takes for sizes that it has not seen, and how time grows with pixels."""
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in cases:
        runs.setdefault((label(case), case['mode'], case['dtype'], case['batch']), []).append(case)
    if max(map(len, runs.values())) < 3:
        return
    yield from ('', '### Size after size')
    yield from header_row('network:form', 'setting', 'time to all first results, s',
                          'slope of log time over log pixels')
    for (name, *rest), members in runs.items():
        pixels = [case['height'] * case['width'] for case in members]
        times = [case['latency_s']['median'] for case in members]
        slope, _ = np.polyfit(np.log(pixels), np.log(times), 1)
        first = members[0]['form_s'] + sum(case['first_s'] for case in members)
        yield row(name, f'{", ".join(map(str, rest))}, {len(members)} sizes', number(first),
                  f'{slope:.2f}')


def model_tables(results: dict[str, Any]) -> Iterator[str]:
    """A whole detector or segmentor, part by part."""
    yield from ('', f'{results["config"]}, {results["weights"]}. Ratios: to {results["baseline"]}.')
    for group, members in by_setting(results['cases']).items():
        every = dict.fromkeys(part for case in members for part in case['latency_s'])
        parts = sorted(every, key=lambda part: part in SUMS)  # these last
        work = any(case.get('macs') for case in members)
        yield from ('', f'### {heading(group)}')
        yield from header_row('backbone:form', *(f'{part}, ms' for part in parts),
                              'ratio, network', 'ratio, total', 'peak, MiB', 'saved, MiB',
                              *['MACs of an image, G', 'parameters, M'] * work)
        for case in members:
            ratios = case['ratio'] or {}
            yield row(label(case), *(spread(case['latency_s'].get(part), 1e3) for part in parts),
                      spread(ratios.get('network')), spread(ratios.get('total')),
                      mebibytes(case['peak_bytes']), mebibytes(case['saved_bytes']),
                      *([number(case['macs'] / case['batch'] / 1e9),
                         number(case['parameters'] / 1e6)] if case.get('macs') else
                        ['–', '–'] * work))


def evaluation_tables(results: dict[str, Any]) -> Iterator[str]:
    """COCO's evaluation, ours against pycocotools."""
    yield from ('', f'{results["images"]:,} images, {results["objects"]:,} objects, '
                    f'{results["detections"]:,} detections, all made up.')
    yield from header_row('what', 'pycocotools, s', 'ours, s', 'ratio',
                          'largest difference of the twelve numbers')
    for case in results['cases']:
        times = case['latency_s']
        yield row(case['what'], spread(times['pycocotools']), spread(times['ours']),
                  spread(case['ratio']), f'{case["largest_difference"]:.1g}')


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    'backbone': backbone_tables,
    'model': model_tables,
    'evaluation': evaluation_tables,
}


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw one run: backbones' speed against size and published accuracy, or a model's parts."""
    if results['kind'] == 'backbone':
        figure = backbone_curves(results['cases'])
    else:
        figure = part_bars(results['cases'])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def published() -> dict[str, dict[str, float]]:
    """Published scores by what they measure and network."""
    scores: dict[str, dict[str, float]] = {
        'RetinaNet, box AP': {}, 'Mask R-CNN, box AP': {}, 'ImageNet top-1, 450 epochs': {}}
    detectors = list(scores)[:2]
    for name, values in PUBLISHED.items():
        for what, value in zip(detectors, values):
            if value is not None:
                scores[what][name] = value
    for arch in ARCHS:
        scores['ImageNet top-1, 450 epochs'][arch] = TOP1[arch][1]
        for what, config in zip(detectors, ('retinanet', 'mask_rcnn')):
            said = re.match(r'box AP ([\d.]+)',
                            header(CONFIGS / f'{config}_effvim_{arch}.py').score)
            if said:
                scores[what][arch] = float(said[1])
    return scores


def backbone_curves(cases: list[dict[str, Any]]) -> Figure:
    """Latency by size, each network in its fastest form, then published scores over latency.

    Of the first mode, precision and batch; scores at the largest size, where two networks have one.
    """
    groups = by_setting(cases)
    first = next(iter(groups))[:3]
    sizes = sorted((group[3] * group[4], group) for group in groups if group[:3] == first)
    lines: dict[str, list[tuple[float, float]]] = {}
    for pixels, group in sizes:
        for name in dict.fromkeys(case['network'] for case in groups[group]):
            latency = min(case['latency_s']['median'] for case in groups[group]
                          if case['network'] == name)
            lines.setdefault(name, []).append((pixels, 1e3 * latency))
    timed = {case['network']: lines[case['network']][-1][1] for case in groups[sizes[-1][1]]}
    scores = {what: {name: score for name, score in found.items() if name in timed}
              for what, found in published().items()}
    scores = {what: found for what, found in scores.items() if len(found) > 1}

    figure = Figure(figsize=(5.5 * (1 + len(scores)), 4.5), layout='constrained')
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    colours = {name: f'C{i % 10}' for i, name in enumerate(lines)}
    for name, points in lines.items():
        axes[0].loglog(*zip(*points), 'o-' if name in ARCHS else 'o--', label=name,
                       color=colours[name], lw=2.5 if name in ARCHS else 1)
    axes[0].set_xticks([pixels for pixels, _ in sizes],
                       [f'{group[3]}×{group[4]}' for _, group in sizes], fontsize='small')
    axes[0].set_xticks([], minor=True)
    axes[0].yaxis.set_major_formatter('{x:g}')
    axes[0].yaxis.set_minor_formatter('{x:g}')
    axes[0].set(title=f'fastest form, {", ".join(map(str, first[:2]))}, batch {first[2]}',
                xlabel='pixels', ylabel='latency, ms')
    axes[0].legend(frameon=False, fontsize='small')
    for panel, (what, found) in zip(axes[1:], scores.items()):
        for name, score in found.items():
            panel.plot(timed[name], score, 'o', color=colours[name], ms=9 if name in ARCHS else 6)
            panel.annotate(name, (timed[name], score), xytext=(6, 4), textcoords='offset points')
        _, _, _, height, width = sizes[-1][1]
        panel.set(title=f'{what}, published', xlabel=f'latency at {height}×{width}, ms')
        panel.margins(0.2)
    for panel in axes:
        panel.spines[['top', 'right']].set_visible(False)
        panel.grid(alpha=0.3)
    return figure


def part_bars(cases: list[dict[str, Any]]) -> Figure:
    """The parts of a whole model, one bar for each case."""
    figure = Figure(figsize=(10, 1.2 + 0.5 * len(cases)), layout='constrained')
    axes = figure.subplots()
    names = [f'{case["network"]}:{case["form"]}\n{heading(setting(case))}' for case in cases]
    parts = dict.fromkeys(part for case in cases for part in case['latency_s'])
    left = np.zeros(len(cases))
    for part in parts:
        if part not in SUMS:
            width = np.array([1e3 * case['latency_s'].get(part, {'median': 0})['median']
                              for case in cases])
            axes.barh(names, width, left=left, label=part)
            left += width
    axes.invert_yaxis()
    axes.set(xlabel='ms')
    figure.legend(frameon=False, fontsize='small', loc='outside right upper')
    axes.spines[['top', 'right']].set_visible(False)
    return figure


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
    for what, missing in (('a CPU', 'CPU' not in devices),
                          ('a CUDA GPU', not set(devices) - {'CPU'})):
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
    write_whole(DOCS / 'benchmarks.md', page(folder).encode())
    for path in folder.glob('*.json'):
        results = read(path)
        if results['kind'] in PLOTTED:
            plot(results, path.with_suffix('.png'))
    print(f'page: {DOCS / "benchmarks.md"}')
