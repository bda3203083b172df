"""Pictures for people: training curves, predictions beside the truth.

Several runs in one plot: `python -m effvim.plots RUN_DIR RUN_DIR … --out FILE`.
"""

from __future__ import annotations

import colorsys
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from backbone.errors import UserError

from . import cli, pictures


def scalars(
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


def curves(work_dir: Path, began: str = '', unit: str = 'epoch') -> Path:
    """Draw losses, learning rate and metrics of the runs in `work_dir` to `curves.png` there.

    unit: what the steps of validations count, epochs or iterations.
    """
    train, val = scalars(work_dir, began)
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
    names = [k for k in (val[-1] if val else {}) if _main(k)]
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


def compare(folders: Sequence[Path]) -> Figure:
    """Loss and main metrics of several runs, each in its colour, over iterations.

    Raises:
        UserError: a folder in which no run has logged anything.
    """
    runs = {folder: logged(folder) for folder in folders}
    names = sorted({name for _, val in runs.values() for record in val for name in record
                    if name.endswith(('mAP', 'mIoU'))})
    figure = Figure(figsize=(4.2 * (1 + len(names)), 3.8), layout='constrained')
    panels = dict(zip(['loss', *names], figure.subplots(1, 1 + len(names), squeeze=False)[0]))
    for train, val in runs.values():
        ends = {record['epoch']: record['step'] for record in train if 'epoch' in record}
        steps, losses = ([r[key] for r in train] for key in ('step', 'loss'))
        line = panels['loss'].plot(steps, losses, '.-', ms=3, lw=1.2)
        for name in names:
            points = [(ends.get(r['step'], r['step']), r[name]) for r in val if name in r]
            panels[name].plot(*zip(*points) if points else ([], []), 'o-', ms=4,
                              color=line[0].get_color())
    for name, axes in panels.items():
        axes.set(title=name + ', %' * name.endswith('mIoU'), xlabel='iteration')
        axes.set_ylim(0)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.3)
    figure.legend(panels['loss'].lines, [str(folder) for folder in folders], frameon=False,
                  loc='outside lower center', fontsize='small', ncols=max(1, len(names)))
    return figure


def summary(folders: Sequence[Path]) -> Table:
    """A row for each run: iterations, last loss, of every main metric the last and the best.

    Raises:
        UserError: as `compare`.
    """
    runs = {folder: logged(folder) for folder in folders}
    names = list(dict.fromkeys(
        name for _, val in runs.values() for record in val for name in record if _main(name)))
    drawn = Table('run', 'iterations', 'loss', *names)
    for folder, (train, val) in runs.items():
        cells = []
        for name in names:
            values = [record[name] for record in val if name in record]
            cells.append(f'{values[-1]:.4f} (best {max(values):.4f})' if values else '–')
        last = train[-1] if train else {}
        drawn.add_row(str(folder), str(last.get('step', '–')),
                      f'{last["loss"]:.4f}' if last else '–', *cells)
    return drawn


def logged(folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """As `scalars`.

    Raises:
        UserError: no run has logged anything in `folder`.
    """
    train, val = scalars(folder)
    if not train and not val:
        raise UserError(f'{folder}: no run has logged there (*/vis_data/scalars.json): give the '
                        f'work dirs of training runs')
    return train, val


def _main(name: str) -> bool:
    return name.endswith(('mAP', 'mAP_50', 'mAP_75', 'mIoU', 'mAcc', 'aAcc'))


def colour(index: int) -> tuple[float, float, float]:
    """A colour for class `index`; neighbours differ much (golden-ratio steps of hue)."""
    return colorsys.hsv_to_rgb(index * 0.61803 % 1, 0.85, 1.0)


def prediction_beside_truth(
    sample: Any, classes: Sequence[str], path: Path, score_thr: float = 0.3
) -> None:
    """Save `beside_truth` as a PNG, `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside_truth(sample, classes, score_thr).savefig(path, dpi=110)


def beside_truth(sample: Any, classes: Sequence[str], score_thr: float = 0.3) -> Figure:
    """One picture of two panels.

    Args:
        sample: mmdet's data sample with `gt_instances` and `pred_instances`, boxes x1 y1 x2 y2 in
            pixels of the original picture; or mmseg's with label maps of the picture's size.
        classes: names by label.
        score_thr: predictions of lower score are left out.
    """
    image = pictures.read(sample.img_path)
    height, width = image.shape[:2]
    scale = 4.5 / max(height, width)
    figure = Figure(figsize=(2 * width * scale + 0.2, height * scale + 0.35), layout='constrained')
    left, right = figure.subplots(1, 2)
    if 'pred_sem_seg' in sample:
        truth, found = (part.data.squeeze(0).cpu().numpy()
                        for part in (sample.gt_sem_seg, sample.pred_sem_seg))
        _map(left, image, 'truth', truth, len(classes))
        _map(right, image, 'prediction', found, len(classes))
        _legend(figure, classes, np.union1d(truth, found))
    else:
        _instances(left, right, image, sample, classes, score_thr)
    return figure


def _map(axes: Axes, image: np.ndarray, title: str, labels: np.ndarray, number: int) -> None:
    """`labels`: H W; pixels whose label is not below `number` stay as they are."""
    paint = np.zeros((256, 4))
    paint[:number] = [(*colour(i), 0.55) for i in range(number)]
    axes.imshow(image)
    axes.imshow(paint[labels])
    axes.set_title(title, fontsize=9)
    axes.axis('off')


def _legend(figure: Figure, classes: Sequence[str], labels: np.ndarray) -> None:
    """The classes among `labels`, below the panels, which stay as large as they are."""
    handles = [Patch(fc=colour(i), label=classes[i]) for i in labels if i < len(classes)]
    columns = max(1, int(figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // columns) + 0.1)
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, fontsize=6,
                  frameon=False)


def _instances(
    left: Axes,
    right: Axes,
    image: np.ndarray,
    sample: Any,
    classes: Sequence[str],
    score_thr: float,
) -> None:
    truth, found = sample.gt_instances, sample.pred_instances
    found = found[found.scores >= score_thr]
    found = found[found.scores.argsort()]  # the surest last, on top of the others
    _panel(left, image, 'truth', truth, classes)
    _panel(right, image, f'prediction (score ≥ {score_thr})', found, classes)


def _panel(axes: Axes, image: np.ndarray, title: str, objects: Any, classes: Sequence[str]) -> None:
    """`objects`: mmdet's instances with bboxes (N, 4), labels (N,), perhaps scores and masks."""
    axes.imshow(image)
    axes.set_title(title, fontsize=9)
    axes.axis('off')
    boxes = getattr(objects.bboxes, 'tensor', objects.bboxes)
    for i in range(len(objects)):
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        label = int(objects.labels[i])
        edge = colour(label)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.4, ec=edge))
        if 'masks' in objects:
            mask = objects.masks[i]  # a tensor predicted, BitmapMasks in the truth
            mask = np.asarray(mask.masks[0] if hasattr(mask, 'masks') else mask.cpu(), bool)
            axes.imshow(mask[..., None] * (*edge, 0.5))
        text = classes[label]
        if 'scores' in objects:
            text += f' {float(objects.scores[i]):.2f}'
        axes.text(x1, y1, text, fontsize=6, va='bottom', clip_on=True,
                  bbox=dict(boxstyle='square,pad=0.1', fc=edge, ec='none', alpha=0.8))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw as the command line says.

    Raises:
        UserError: a mistake in it.
    """
    from . import checkpoint, config

    parser = cli.Parser(
        prog='python -m effvim.plots',
        description='Several training runs side by side: a table, and their curves in one plot.')
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN_DIR', help='work dirs')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='.png, .svg, .pdf')
    args = parser.parse_args(argv)
    kind = args.out.suffix.lstrip('.').lower()
    if kind not in ('png', 'svg', 'pdf'):
        raise UserError(f'--out {args.out}: name a file that ends in .png, .svg or .pdf')
    config.writable(args.out.parent, '--out')
    buffer = io.BytesIO()
    compare(args.runs).savefig(buffer, format=kind, dpi=130)
    checkpoint.write_whole(args.out, buffer.getvalue())
    Console().print(summary(args.runs))
    print(f'curves: {args.out}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
