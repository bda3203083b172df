"""docs/benchmarks.md and its pictures, from the JSON files of `tools/benchmark.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from backbone import ARCHS
from effvim.benchmark.backbones import PEERS
from effvim.benchmark.cases import compilation
from effvim.benchmark.timing import ratio

SUMS = ('network', 'total')  # among the parts of a model


def section(results: dict[str, Any]) -> str:
    """The tables of one run, in Markdown."""
    machine = results['machine']
    device = machine['processor'] if machine['device'] == 'CPU' else machine['device']
    versions = ', '.join(f'{name} {v.split(" ")[-1]}' for name, v in results['versions'].items())
    return '\n'.join(
        [
            f'`{results["command"]}`',
            '',
            f'{results["date"]}, {device}, {machine["threads"]} of {machine["cores"]} cores '
            f'({machine["instructions"]}), {machine["system"]}; {versions}; '
            f'{results["rounds"]} rounds.',
            *TABLES[results['kind']](results),
            *failures(results.get('failed')),
        ]
    )


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
    yield (
        f'A product of two 2048 × 2048 matrices in float32: '
        f'{spread(results["matmul"], 1e-9)} GFLOP/s. Ratios: to {results["baseline"]}.'
    )
    for group, members in by_setting(cases).items():
        yield from ('', f'### {heading(group)}')
        yield from header_row(
            'network:form',
            'latency, ms',
            'ratio',
            'images/s',
            'share',
            'peak, MiB',
            'saved, MiB',
            'MACs of an image, M',
            'parameters, M',
            'first result, s',
        )
        for case in sorted(members, key=lambda case: case['latency_s']['median']):
            yield row(
                label(case),
                spread(case['latency_s'], 1e3),
                spread(case['ratio']),
                number(case['throughput']),
                f'{case["share"]["median"]:.2f}',
                mebibytes(case['peak_bytes']),
                mebibytes(case['saved_bytes']),
                number(case['macs'] / case['batch'] / 1e6),
                number(case['parameters'] / 1e6),
                number(case['form_s'] + case['first_s']),
            )
    for table in (best_table, precision_table, sizes_table):
        yield from table(cases)


def best_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Ours in its best form against each other network in its own."""
    rows = []
    for group, members in by_setting(cases).items():
        names = dict.fromkeys(case['network'] for case in members)
        pairs = [
            (arch, name)
            for arch in names
            if arch in ARCHS
            for name in names
            if name not in ARCHS and (name in PEERS[arch] or len(names & ARCHS.keys()) == 1)
        ]
        for arch, name in pairs:
            ours, others = (
                [case for case in members if case['network'] == n] for n in (arch, name)
            )
            plain = [case for case in others if case['form'] == 'plain']
            compared = [
                (fastest(c for c in ours if not is_compiled(c)), fastest(plain)),
                (
                    fastest(c for c in ours if not is_compiled(c)),
                    fastest(c for c in others if not is_compiled(c)),
                ),
                (fastest(ours), fastest(c for c in others if is_compiled(c))),
                (fastest(ours), fastest(others)),
            ]
            saved = [
                c['saved_bytes'] for c in (fastest(ours), fastest(plain) or fastest(others)) if c
            ]
            rows.append(
                row(
                    heading(group),
                    f'**{arch}**',
                    name,
                    *(
                        spread(ratio(b['seconds'], a['seconds'])) if a and b else '–'
                        for a, b in compared
                    ),
                    f'{saved[0] / saved[1]:.2f}' if all(saved) else '–',
                )
            )
    if rows:
        yield from ('', '### Best against best')
        yield from header_row(
            'setting',
            'ours',
            'other',
            'uncompiled over its plain form',
            'uncompiled over its best uncompiled',
            'over its best compiled',
            'best over best',
            'saved, share of its plain form',
        )
        yield from rows


def precision_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Each network's fastest form in lower precision against its fastest in float32."""
    groups = by_setting(cases)
    rows = []
    for group, members in groups.items():
        mode, dtype, *size = group
        wide = groups.get((mode, 'float32', *size), [])
        for name in dict.fromkeys(case['network'] for case in members if dtype != 'float32'):
            narrow_best, wide_best = (
                fastest(case for case in some if case['network'] == name)
                for some in (members, wide)
            )
            if narrow_best and wide_best:
                rows.append(
                    row(
                        label(narrow_best),
                        heading(group),
                        label(wide_best),
                        spread(ratio(wide_best['seconds'], narrow_best['seconds'])),
                    )
                )
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
    yield from header_row(
        'network:form',
        'setting',
        'time to all first results, s',
        'slope of log time over log pixels',
    )
    for (name, *rest), members in runs.items():
        pixels = [case['height'] * case['width'] for case in members]
        times = [case['latency_s']['median'] for case in members]
        slope, _ = np.polyfit(np.log(pixels), np.log(times), 1)
        first = members[0]['form_s'] + sum(case['first_s'] for case in members)
        yield row(
            name,
            f'{", ".join(map(str, rest))}, {len(members)} sizes',
            number(first),
            f'{slope:.2f}',
        )


def model_tables(results: dict[str, Any]) -> Iterator[str]:
    """A whole detector or segmentor, part by part."""
    yield from ('', f'{results["config"]}, {results["weights"]}. Ratios: to {results["baseline"]}.')
    for group, members in by_setting(results['cases']).items():
        every = dict.fromkeys(part for case in members for part in case['latency_s'])
        parts = sorted(every, key=lambda part: part in SUMS)  # these last
        work = any(case.get('macs') for case in members)
        yield from ('', f'### {heading(group)}')
        yield from header_row(
            'backbone:form',
            *(f'{part}, ms' for part in parts),
            'ratio, network',
            'ratio, total',
            'peak, MiB',
            'saved, MiB',
            *['MACs of an image, G', 'parameters, M'] * work,
        )
        for case in members:
            ratios = case['ratio'] or {}
            yield row(
                label(case),
                *(spread(case['latency_s'].get(part), 1e3) for part in parts),
                spread(ratios.get('network')),
                spread(ratios.get('total')),
                mebibytes(case['peak_bytes']),
                mebibytes(case['saved_bytes']),
                *(
                    [number(case['macs'] / case['batch'] / 1e9), number(case['parameters'] / 1e6)]
                    if case.get('macs')
                    else ['–', '–'] * work
                ),
            )


def evaluation_tables(results: dict[str, Any]) -> Iterator[str]:
    """COCO's evaluation, ours against pycocotools."""
    yield from (
        '',
        f'{results["images"]:,} images, {results["objects"]:,} objects, '
        f'{results["detections"]:,} detections, all made up.',
    )
    yield from header_row(
        'what', 'pycocotools, s', 'ours, s', 'ratio', 'largest difference of the twelve numbers'
    )
    for case in results['cases']:
        times = case['latency_s']
        yield row(
            case['what'],
            spread(times['pycocotools']),
            spread(times['ours']),
            spread(case['ratio']),
            f'{case["largest_difference"]:.1g}',
        )


TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    'backbone': backbone_tables,
    'model': model_tables,
    'evaluation': evaluation_tables,
}


def row(*cells: object) -> str:
    """One row of a table."""
    return f'| {" | ".join(map(str, cells))} |'
