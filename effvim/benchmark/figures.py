"""Figures of one benchmark run, from the content of its JSON file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backbone import ARCHS
from effvim.benchmark.published import BOX_AP, TOP1
from effvim.benchmark.tables import SUMS, by_setting, heading, setting
from effvim.config.headers import read_header
from effvim.resources import CONFIGS
from effvim.visualization.plot_files import write_plot

PLOTTED = ('backbone', 'model')  # kinds of runs that have a figure


def plot(results: dict[str, Any], path: Path) -> None:
    """Write the figure of one run: latency of backbones by size and score, or a model's stages."""
    if results['kind'] == 'backbone':
        figure = backbone_curves(results['cases'])
    else:
        figure = stage_bars(results['cases'])
    write_plot(figure, path, dpi=110)


def published_scores() -> dict[str, dict[str, float]]:
    """Published scores by metric and network."""
    retinanet, mask_rcnn, top1 = (
        'RetinaNet, box AP',
        'Mask R-CNN, box AP',
        'ImageNet top-1, 450 epochs',
    )
    scores: dict[str, dict[str, float]] = {retinanet: {}, mask_rcnn: {}, top1: {}}
    for name, values in BOX_AP.items():
        for metric, value in zip((retinanet, mask_rcnn), values):
            if value is not None:
                scores[metric][name] = value
    for arch in ARCHS:
        scores[top1][arch] = TOP1[arch][1]
        for metric, config in ((retinanet, 'retinanet'), (mask_rcnn, 'mask_rcnn')):
            header = read_header(CONFIGS / f'{config}_effvim_{arch}.py')
            box_ap = re.match(r'box AP ([\d.]+)', header.score)
            if box_ap:
                scores[metric][arch] = float(box_ap[1])
    return scores


def backbone_curves(cases: list[dict[str, Any]]) -> Figure:
    """Latency by input size, each network in its fastest form, and published scores by latency.

    Shows the first mode, precision and batch of the run; the scores that at least two networks
    have, by latency at the largest size.
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
        metric: {name: score for name, score in values.items() if name in timed}
        for metric, values in published_scores().items()
    }
    scores = {metric: values for metric, values in scores.items() if len(values) > 1}

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
    for panel, (metric, values) in zip(axes[1:], scores.items()):
        for name, score in values.items():
            panel.plot(timed[name], score, 'o', color=colours[name], ms=9 if name in ARCHS else 6)
            panel.annotate(name, (timed[name], score), xytext=(6, 4), textcoords='offset points')
        _, _, _, height, width = sizes[-1][1]
        panel.set(title=f'{metric}, published', xlabel=f'latency at {height}×{width}, ms')
        panel.margins(0.2)
    for panel in axes:
        panel.spines[['top', 'right']].set_visible(False)
        panel.grid(alpha=0.3)
    return figure


def stage_bars(cases: list[dict[str, Any]]) -> Figure:
    """Latency of a whole model by stage, one bar for each case."""
    figure = Figure(figsize=(10, 1.2 + 0.5 * len(cases)), layout='constrained')
    axes = figure.subplots()
    names = [f'{case["network"]}:{case["form"]}\n{heading(setting(case))}' for case in cases]
    stages = dict.fromkeys(stage for case in cases for stage in case['latency_s'])
    left = np.zeros(len(cases))
    for stage in stages:
        if stage not in SUMS:
            width = np.array(
                [1e3 * case['latency_s'].get(stage, {'median': 0})['median'] for case in cases]
            )
            axes.barh(names, width, left=left, label=stage)
            left += width
    axes.invert_yaxis()
    axes.set(xlabel='latency, ms')
    figure.legend(frameon=False, fontsize='small', loc='outside right upper')
    axes.spines[['top', 'right']].set_visible(False)
    return figure
