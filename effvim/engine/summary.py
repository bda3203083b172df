"""What is said at the end of a run: the numbers as a table, and where the files are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from effvim.engine.progress import position_of
from effvim.files import write_atomic
from effvim.visualization.curves import read_scalars


def table(metrics: Mapping[str, float], title: str) -> Table:
    """Metric names and numbers; −1 is COCO's "no such object in the truth".

    The numbers of single classes, e.g. IoU.wall, are left to the file of `write_metrics`.
    """
    drawn = Table('metric', title=title, title_justify='left', min_width=36)
    drawn.add_column('value', justify='right')
    for name, value in metrics.items():
        if '.' not in name:
            drawn.add_row(name, '–' if value == -1 else f'{value:.4f}')
    return drawn


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    return {
        k: float(v) for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)
    }


def before_training(runner: Any) -> None:
    """What is going to be trained on what."""
    about, classes = runner.about, runner.about['classes']
    overlays = f' ({", ".join(about["overlays"])})' if about['overlays'] else ''
    train, val = (len(d.dataset) for d in (runner.train_dataloader, runner.val_dataloader))
    names = ', '.join(classes[:5]) + (' …' if len(classes) > 5 else '')
    print(
        f'{about["config"]}{overlays}: {train:,} pictures to train on, {val:,} to validate on, '
        f'{len(classes)} classes: {names}'
    )
    if about['ema']:
        print(
            'validation measures averaged weights; checkpoints hold them as state_dict, the raw '
            'ones as ema_state_dict'
        )
    print(f'seed {runner.seed}; results go to {runner.work_dir}', flush=True)


def after_training(runner: Any) -> None:
    """The last validation's table, then the main numbers and the paths to look at."""
    work_dir = Path(runner.work_dir)
    _, val = read_scalars(work_dir, runner.about['began'])
    metrics = {
        k: v for k, v in (val[-1] if val else {}).items() if k not in ('step', 'time', 'data_time')
    }
    Console().print(table(metrics, f'validation after {position_of(runner)}'))
    for name, value in metrics.items():
        if name.endswith(('mAP', 'mAP_50', 'mIoU')):
            print(f'{name}: {value:.4f}')
    if 'mini' in runner.about['overlays']:
        print('(drawn scenes: this shows that training learns, nothing more)')
    paths(work_dir)


def paths(work_dir: Path) -> None:
    """Where checkpoint, curves and pictures are, as far as they exist."""
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        print(f'checkpoint: {pointer.read_text().strip()}')
    for name, path in (('curves', work_dir / 'curves.png'), ('pictures', work_dir / 'pictures')):
        if path.exists():
            print(f'{name}: {path}')


def write_metrics(metrics: Mapping[str, float], path: str) -> None:
    """One flat JSON object, metric name to number."""
    write_atomic(path, (json.dumps(metrics, indent=2) + '\n').encode())
