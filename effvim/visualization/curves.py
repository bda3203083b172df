"""Training curves of one run, and several runs compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from backbone.errors import UserError
from effvim.config.published import PublishedCurve, published_curve, published_names
from effvim.config.reading import load_config

MAIN_METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mIoU', 'mAcc', 'aAcc')

Records = list[dict[str, float]]


def read_scalars(work_dir: Path, began: str = '') -> tuple[Records, Records]:
    """Read what the runs in a working directory logged: training by iteration, and validations.

    Where a resumed run repeats iterations of an earlier one, or counts them anew since its epochs
    have fewer batches, the later run's records count.

    Args:
        work_dir: the working directory.
        began: mmengine's time stamp, e.g. 20250131_235959; earlier runs are ignored.
    """
    train: dict[float, dict[str, float]] = {}
    val: dict[float, dict[str, float]] = {}
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
    """Draw losses, learning rate and metrics of a working directory to `curves.png` in it.

    Args:
        work_dir: the working directory.
        began: as of `read_scalars`.
        unit: what the steps of validations count, epoch or iteration.

    Returns:
        The path of `curves.png`.
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
    names = [k for k in (val[-1] if val else {}) if k.endswith(MAIN_METRICS)]
    for name in names:
        metrics.plot(steps, [record.get(name, np.nan) for record in val], 'o-', label=name)
    percent = any(name.endswith(('mIoU', 'mAcc', 'aAcc')) for name in names)
    metrics.set(title='validation' + percent * ', %', xlabel=unit, ylim=(0, 100 if percent else 1))
    metrics.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, metrics):
        if axes.lines:
            axes.legend(frameon=False, fontsize='small')
    for axes in (losses, rate, metrics):
        declutter(axes)
    path = work_dir / 'curves.png'
    figure.savefig(path, dpi=110)
    return path


def draw_runs(work_dirs: Sequence[Path]) -> Figure:
    """Draw loss and main metrics of several runs over iterations, each run in its own colour.

    Of runs that repeat a published recipe the published curve is drawn as well, dashed.

    Raises:
        UserError: no run has logged anything in one of the working directories.
    """
    runs = [read_logged(work_dir) for work_dir in work_dirs]
    names = sorted(_metric_names(runs, ('mAP', 'mIoU')))
    figure = Figure(figsize=(4.2 * (1 + len(names)), 3.8), layout='constrained')
    loss, *panels = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    for train, val in runs:
        ends = {record['epoch']: record['step'] for record in train if 'epoch' in record}
        steps, losses = ([record[key] for record in train] for key in ('step', 'loss'))
        line = loss.plot(steps, losses, '.-', ms=3, lw=1.2)
        for name, axes in zip(names, panels):
            points = [(ends.get(r['step'], r['step']), r[name]) for r in val if name in r]
            x, y = zip(*points) if points else ((), ())
            axes.plot(x, y, 'o-', ms=4, color=line[0].get_color())
    published = published_runs(work_dirs)
    for curve in published.values():
        line = loss.plot(*zip(*curve.loss), '--', lw=1)
        for name, axes in zip(names, panels):
            key = name.rpartition('/')[2]
            points = [(curve.iteration(e), e[key]) for e in curve.evaluations if key in e]
            axes.plot(*zip(*points), '--', lw=1, color=line[0].get_color())
    for name, axes in zip(['loss', *names], [loss, *panels]):
        axes.set(title=name + ', %' * name.endswith('mIoU'), xlabel='iteration')
        axes.set_ylim(0)
        declutter(axes)
    figure.legend(
        loss.lines,
        [
            *(str(work_dir) for work_dir in work_dirs),
            *(f'{config}, published' for config in published),
        ],
        frameon=False,
        loc='outside lower center',
        fontsize='small',
        ncols=max(1, len(names)),
    )
    return figure


def summarize_runs(work_dirs: Sequence[Path]) -> Table:
    """A table with a row for each run: iterations, last loss, last and best main metrics.

    Raises:
        UserError: as `draw_runs`.
    """
    runs = [read_logged(work_dir) for work_dir in work_dirs]
    names = _metric_names(runs, MAIN_METRICS)
    table = Table('run', 'iterations', 'loss', *names)
    for work_dir, (train, val) in zip(work_dirs, runs):
        cells = []
        for name in names:
            values = [record[name] for record in val if name in record]
            cells.append(f'{values[-1]:.4f} (best {max(values):.4f})' if values else '–')
        last = train[-1] if train else {}
        loss = f'{last["loss"]:.4f}' if last else '–'
        table.add_row(str(work_dir), str(last.get('step', '–')), loss, *cells)
    return table


def read_logged(work_dir: Path) -> tuple[Records, Records]:
    """As `read_scalars`.

    Raises:
        UserError: no run has logged anything in the working directory.
    """
    train, val = read_scalars(work_dir)
    if not train and not val:
        raise UserError(
            f'{work_dir}: no run has logged there (*/vis_data/scalars.json): pass the working '
            f'directories of training runs'
        )
    return train, val


def published_runs(work_dirs: Sequence[Path]) -> dict[str, PublishedCurve]:
    """By name of a config, the published runs whose recipe working directories repeat."""
    curves = {}
    for path in (path for work_dir in work_dirs for path in sorted(work_dir.glob('*.py'))):
        if path.stem in published_names():
            curve = published_curve(load_config(str(path)), path.name)
            if curve:
                curves[path.stem] = curve
    return curves


def _metric_names(runs: Sequence[tuple[Records, Records]], endings: tuple[str, ...]) -> list[str]:
    names = (name for _, val in runs for record in val for name in record)
    return list(dict.fromkeys(name for name in names if name.endswith(endings)))


def declutter(axes: Axes) -> None:
    """Two spines less, and a light grid behind the data."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
