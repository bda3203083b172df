"""TODO effvim.visualization.curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from backbone.errors import UserError


def read_scalars(
    work_dir: Path, began: str = ''
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the runs in `work_dir` logged: training records by iteration, validations by epoch.

    Runs before `began` (mmengine's time stamp, e.g. 20250131_235959) are left out. Where a resumed
    run repeats iterations of an earlier one, the later run's records count.
    """
    train: dict[int, dict[str, float]] = {}
    val: dict[int, dict[str, float]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        if path.parts[-3] < began:
            continue
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed while writing it
            (train if 'loss' in record else val)[record['step']] = record
    return [train[i] for i in sorted(train)], [val[i] for i in sorted(val)]


def draw_curves(work_dir: Path, began: str = '', unit: str = 'epoch') -> Path:
    """Draw losses, learning rate and metrics of the runs in `work_dir` to `curves.png` there.

    unit: what the steps of validations count, epochs or iterations.
    """
    train, val = read_scalars(work_dir, began)
    figure = Figure(figsize=(12, 3.6), layout='constrained')
    losses, rate, metrics = figure.subplots(1, 3)
    steps = [record['step'] for record in train]
    names = [k for k in (train[-1] if train else {}) if k.split('.')[-1].startswith('loss')]
    for name in names:
        losses.plot(steps, [record.get(name, np.nan) for record in train], label=name)
    losses.set(title='training losses', xlabel='iteration', ylim=(0, None))
    rate.plot(steps, [record.get('lr', np.nan) for record in train], color='tab:gray')
    rate.set(title='learning rate', xlabel='iteration', ylim=(0, None))
    steps = [record['step'] for record in val]
    names = [k for k in (val[-1] if val else {}) if _is_main_metric(k)]
    for name in names:
        metrics.plot(steps, [record.get(name, np.nan) for record in val], 'o-', label=name)
    percent = any(name.endswith(('mIoU', 'mAcc', 'aAcc')) for name in names)
    metrics.set(title='validation' + percent * ', %', xlabel=unit, ylim=(0, 100 if percent else 1))
    metrics.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, metrics):
        if axes.lines:
            axes.legend(frameon=False, fontsize='small')
    for axes in (losses, rate, metrics):
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.3)
    path = work_dir / 'curves.png'
    figure.savefig(path, dpi=110)
    return path


def draw_runs(folders: Sequence[Path]) -> Figure:
    """Loss and main metrics of several runs, each in its colour, over iterations.

    Raises:
        UserError: a folder in which no run has logged anything.
    """
    runs = {folder: read_logged(folder) for folder in folders}
    names = sorted(
        {
            name
            for _, val in runs.values()
            for record in val
            for name in record
            if name.endswith(('mAP', 'mIoU'))
        }
    )
    figure = Figure(figsize=(4.2 * (1 + len(names)), 3.8), layout='constrained')
    panels = dict(zip(['loss', *names], figure.subplots(1, 1 + len(names), squeeze=False)[0]))
    for train, val in runs.values():
        ends = {record['epoch']: record['step'] for record in train if 'epoch' in record}
        steps, losses = ([r[key] for r in train] for key in ('step', 'loss'))
        line = panels['loss'].plot(steps, losses, '.-', ms=3, lw=1.2)
        for name in names:
            points = [(ends.get(r['step'], r['step']), r[name]) for r in val if name in r]
            panels[name].plot(
                *zip(*points) if points else ([], []), 'o-', ms=4, color=line[0].get_color()
            )
    for name, axes in panels.items():
        axes.set(title=name + ', %' * name.endswith('mIoU'), xlabel='iteration')
        axes.set_ylim(0)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(
        panels['loss'].lines,
        [str(folder) for folder in folders],
        frameon=False,
        loc='outside lower center',
        fontsize='small',
        ncols=max(1, len(names)),
    )
    return figure


def summarize_runs(folders: Sequence[Path]) -> Table:
    """A row for each run: iterations, last loss, of every main metric the last and the best.

    Raises:
        UserError: as `compare`.
    """
    runs = {folder: read_logged(folder) for folder in folders}
    names = list(
        dict.fromkeys(
            name
            for _, val in runs.values()
            for record in val
            for name in record
            if _is_main_metric(name)
        )
    )
    drawn = Table('run', 'iterations', 'loss', *names)
    for folder, (train, val) in runs.items():
        cells = []
        for name in names:
            values = [record[name] for record in val if name in record]
            cells.append(f'{values[-1]:.4f} (best {max(values):.4f})' if values else '–')
        last = train[-1] if train else {}
        drawn.add_row(
            str(folder), str(last.get('step', '–')), f'{last["loss"]:.4f}' if last else '–', *cells
        )
    return drawn


def read_logged(folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """As `scalars`.

    Raises:
        UserError: no run has logged anything in `folder`.
    """
    train, val = read_scalars(folder)
    if not train and not val:
        raise UserError(
            f'{folder}: no run has logged there (*/vis_data/scalars.json): give the '
            f'work dirs of training runs'
        )
    return train, val


def _is_main_metric(name: str) -> bool:
    return name.endswith(('mAP', 'mAP_50', 'mAP_75', 'mIoU', 'mAcc', 'aAcc'))
