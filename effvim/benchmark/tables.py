"""Markdown tables of one benchmark run, from the content of its JSON file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from backbone import ARCHS
from effvim.benchmark.backbones import PEERS
from effvim.benchmark.cases import compile_arguments
from effvim.benchmark.timing import ratio

SUMS = ('network', 'total')  # in a model's latencies, after those of its stages


def section(results: dict[str, Any]) -> str:
    """The tables of one run under its command line, date and machine."""
    machine = results['machine']
    versions = ', '.join(f'{name} {v.split(" ")[-1]}' for name, v in results['versions'].items())
    return '\n'.join(
        [
            f'`{results["command"]}`',
            '',
            f'{results["date"]}, {device_of(machine)}, {threads_of(machine)} '
            f'({machine["instructions"]}), {machine["system"]}; {versions}; '
            f'{results["rounds"]} round{"s" * (results["rounds"] > 1)}.',
            *TABLES[results['kind']](results),
            *failures(results.get('failed')),
        ]
    )


def device_of(machine: dict[str, Any]) -> str:
    """The name of the GPU or processor that a run measured."""
    return machine['processor'] if machine['device'] == 'CPU' else machine['device']


def threads_of(machine: dict[str, Any]) -> str:
    """The number of threads that a run used."""
    return f'{machine["threads"]} of {machine["cores"]} cores'


def failures(failed: list[dict[str, Any]] | None) -> Iterator[str]:
    """The cases that could not be measured, each with the reason."""
    if failed:
        yield from ('', 'Not measured:', '')
        for case in failed:
            yield f'- {label(case)}, {heading(setting(case))}: `{case["error"]}`'


def number(value: float) -> str:
    """A number with three significant digits, or all those before the decimal point."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def spread(values: dict[str, float] | None, scale: float = 1) -> str:
    """Median (first–third quartile)."""
    if values is None:
        return '–'
    median, q1, q3 = (number(scale * values[key]) for key in ('median', 'q1', 'q3'))
    return f'{median} ({q1}–{q3})'


def mebibytes(value: int | None) -> str:
    """Bytes in MiB."""
    return '–' if value is None else number(value / 2**20)


def header_rows(*cells: str) -> Iterator[str]:
    """An empty line and the first two lines of a table."""
    yield from ('', row(*cells), row(*['---'] * len(cells)))


def label(case: dict[str, Any]) -> str:
    """Network and form, this project's in bold."""
    name = f'{case["network"]}:{case["form"]}'
    return f'**{name}**' if case['network'] in (*ARCHS, 'own') else name


def setting(case: dict[str, Any]) -> tuple[Any, ...]:
    """Mode, precision, batch and size: what cases must share to be compared."""
    return tuple(case[key] for key in ('mode', 'dtype', 'batch', 'height', 'width'))


def by_setting(cases: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The cases in groups of the same setting."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(setting(case), []).append(case)
    return groups


def heading(group: tuple[Any, ...]) -> str:
    """The title of a setting's table."""
    mode, dtype, batch, height, width = group
    return f'{mode}, {dtype}, {batch}×{height}×{width}'


def is_compiled(case: dict[str, Any]) -> bool:
    """Whether the form is one of torch.compile's."""
    return compile_arguments(case['form']) is not None


def fastest(cases: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The case with the lowest median latency; None if there are no cases."""
    return min(cases, key=lambda case: case['latency_s']['median'], default=None)


def backbone_tables(results: dict[str, Any]) -> Iterator[str]:
    """Tables of all cases, of each network's best form, and across precisions and sizes."""
    cases = results['cases']
    yield ''
    yield (
        f'Product of two 2048 × 2048 matrices in float32: '
        f'{spread(results["matmul"], 1e-9)} GFLOP/s. Baseline of the speed-ups: '
        f'{results["baseline"]}.'
    )
    for group, members in by_setting(cases).items():
        yield from ('', f'### {heading(group)}')
        yield from header_rows(
            'network:form',
            'latency, ms',
            'speed-up',
            'images/s',
            'efficiency',
            'peak memory, MiB',
            'saved for backward, MiB',
            'MACs per image, M',
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
    """Each EfficientViM in its best form compared with each other network in its best form."""
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
        yield from ('', '### Speed-up, each network in its best form')
        yield from header_rows(
            'setting',
            'ours',
            'other',
            'uncompiled, over its plain form',
            'uncompiled, over its best uncompiled form',
            'over its best compiled form',
            'over its best form',
            'memory saved for backward, relative to its plain form',
        )
        yield from rows


def precision_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Each network's fastest form in lower precision compared with its fastest in float32."""
    groups = by_setting(cases)
    rows = []
    for group, members in groups.items():
        mode, dtype, *size = group
        wide = groups.get((mode, 'float32', *size), [])
        for name in dict.fromkeys(case['network'] for case in members if dtype != 'float32'):
            narrow_best, wide_best = (
                fastest(case for case in candidates if case['network'] == name)
                for candidates in (members, wide)
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
        yield from ('', '### Speed-up of lower precision over float32')
        yield from header_rows('fastest form', 'setting', 'fastest form in float32', 'speed-up')
        yield from rows


def sizes_table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """The cost of sizes that a network has not seen yet, and how latency grows with pixels."""
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in cases:
        runs.setdefault((label(case), case['mode'], case['dtype'], case['batch']), []).append(case)
    if max(map(len, runs.values())) < 3:
        return
    yield from ('', '### New input sizes')
    yield from header_rows(
        'network:form',
        'setting',
        'time to the first result at all sizes, s',
        'slope of log latency over log pixels',
    )
    for (name, *rest), members in runs.items():
        pixels = [case['height'] * case['width'] for case in members]
        times = [case['latency_s']['median'] for case in members]
        slope = '–'  # of one or two points it says nothing
        if len(members) >= 3:
            slope = f'{np.polyfit(np.log(pixels), np.log(times), 1)[0]:.2f}'
        first = members[0]['form_s'] + sum(case['first_s'] for case in members)
        yield row(
            name,
            f'{", ".join(map(str, rest))}, {len(members)} sizes',
            number(first),
            slope,
        )


def model_tables(results: dict[str, Any]) -> Iterator[str]:
    """A whole detector or segmentor, stage by stage."""
    yield from (
        '',
        f'{results["config"]}, {results["weights"]}. Baseline of the speed-ups: '
        f'{results["baseline"]}.',
    )
    for group, members in by_setting(results['cases']).items():
        timed = dict.fromkeys(stage for case in members for stage in case['latency_s'])
        stages = sorted(timed, key=lambda stage: stage in SUMS)  # sums last
        counted = any(case.get('macs') for case in members)
        yield from ('', f'### {heading(group)}')
        yield from header_rows(
            'backbone:form',
            *(f'{stage}, ms' for stage in stages),
            'speed-up, network',
            'speed-up, total',
            'peak memory, MiB',
            'saved for backward, MiB',
            *['MACs per image, G', 'parameters, M'] * counted,
        )
        for case in members:
            ratios = case['ratio'] or {}
            yield row(
                label(case),
                *(spread(case['latency_s'].get(stage), 1e3) for stage in stages),
                spread(ratios.get('network')),
                spread(ratios.get('total')),
                mebibytes(case['peak_bytes']),
                mebibytes(case['saved_bytes']),
                *(
                    [number(case['macs'] / case['batch'] / 1e9), number(case['parameters'] / 1e6)]
                    if case.get('macs')
                    else ['–', '–'] * counted
                ),
            )


def evaluation_tables(results: dict[str, Any]) -> Iterator[str]:
    """COCO evaluation, this project's compared with pycocotools."""
    yield from (
        '',
        f'{results["images"]:,} images, {results["objects"]:,} objects, '
        f'{results["detections"]:,} detections, all randomly generated.',
    )
    yield from header_rows(
        'evaluated',
        'pycocotools, s',
        'ours, s',
        'speed-up',
        'largest difference in the twelve metrics',
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
    """One line of a table."""
    return f'| {" | ".join(map(str, cells))} |'
