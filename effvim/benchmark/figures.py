"""TODO effvim.benchmark.figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backbone import ARCHS
from effvim.benchmark.published import PUBLISHED, TOP1
from effvim.benchmark.tables import SUMS, by_setting, heading, setting
from effvim.config.headers import read_header
from effvim.config.packaged import CONFIGS

PLOTTED = ('backbone', 'model')


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
        'RetinaNet, box AP': {},
        'Mask R-CNN, box AP': {},
        'ImageNet top-1, 450 epochs': {},
    }
    detectors = list(scores)[:2]
    for name, values in PUBLISHED.items():
        for what, value in zip(detectors, values):
            if value is not None:
                scores[what][name] = value
    for arch in ARCHS:
        scores['ImageNet top-1, 450 epochs'][arch] = TOP1[arch][1]
        for what, config in zip(detectors, ('retinanet', 'mask_rcnn')):
            said = re.match(
                r'box AP ([\d.]+)', read_header(CONFIGS / f'{config}_effvim_{arch}.py').score
            )
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
            latency = min(
                case['latency_s']['median'] for case in groups[group] if case['network'] == name
            )
            lines.setdefault(name, []).append((pixels, 1e3 * latency))
    timed = {case['network']: lines[case['network']][-1][1] for case in groups[sizes[-1][1]]}
    scores = {
        what: {name: score for name, score in found.items() if name in timed}
        for what, found in published().items()
    }
    scores = {what: found for what, found in scores.items() if len(found) > 1}

    figure = Figure(figsize=(5.5 * (1 + len(scores)), 4.5), layout='constrained')
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    colours = {name: f'C{i % 10}' for i, name in enumerate(lines)}
    for name, points in lines.items():
        axes[0].loglog(
            *zip(*points),
            'o-' if name in ARCHS else 'o--',
            label=name,
            color=colours[name],
            lw=2.5 if name in ARCHS else 1,
        )
    axes[0].set_xticks(
        [pixels for pixels, _ in sizes],
        [f'{group[3]}×{group[4]}' for _, group in sizes],
        fontsize='small',
    )
    axes[0].set_xticks([], minor=True)
    axes[0].yaxis.set_major_formatter('{x:g}')
    axes[0].yaxis.set_minor_formatter('{x:g}')
    axes[0].set(
        title=f'fastest form, {", ".join(map(str, first[:2]))}, batch {first[2]}',
        xlabel='pixels',
        ylabel='latency, ms',
    )
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
            width = np.array(
                [1e3 * case['latency_s'].get(part, {'median': 0})['median'] for case in cases]
            )
            axes.barh(names, width, left=left, label=part)
            left += width
    axes.invert_yaxis()
    axes.set(xlabel='ms')
    figure.legend(frameon=False, fontsize='small', loc='outside right upper')
    axes.spines[['top', 'right']].set_visible(False)
    return figure
