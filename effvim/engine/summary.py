"""What a run prints before and after it: data and classes, metrics, and where the files are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from effvim import console
from effvim.config.precision import SLOWER, amp_is_faster
from effvim.engine.progress import position_of
from effvim.files import write_atomic
from effvim.visualization.curves import read_scalars


def table(metrics: Mapping[str, float], title: str) -> Table:
    """Metric names and values; – stands for −1, COCO's "no such object in the ground truth".

    Metrics of single classes, e.g. IoU.wall or bbox_person_precision, are only in the file of
    `write_metrics`.
    """
    rows = Table('metric', title=title, title_justify='left', min_width=36)
    rows.add_column('value', justify='right')
    for name, value in metrics.items():
        if '.' not in name and not name.endswith('_precision'):
            rows.add_row(name, '–' if value == -1 else f'{value:.4f}')
    return rows


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    return {
        k: float(v) for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)
    }


def before_training(runner: Any) -> None:
    """Print the config, the size of the dataset, the classes and the working directory."""
    spec = runner.spec
    presets = f' ({", ".join(spec.presets)})' if spec.presets else ''
    train, val = (len(d.dataset) for d in (runner.train_dataloader, runner.val_dataloader))
    names = ', '.join(spec.classes[:5]) + (' …' if len(spec.classes) > 5 else '')
    console.say(
        f'{spec.config}{presets}: {train:,} training images, {val:,} validation images, '
        f'{len(spec.classes)} classes: {names}'
    )
    if spec.ema:
        console.say(
            'validation measures averaged weights; checkpoints hold them as state_dict, the raw '
            'ones as ema_state_dict'
        )
    if spec.amp and not amp_is_faster():
        console.note(SLOWER)
    console.say(f'random seed {runner.seed}; working directory {runner.work_dir}')


def after_training(runner: Any) -> None:
    """Print the metrics of the last validation, the main ones again, and where the files are."""
    work_dir = Path(runner.work_dir)
    _, val = read_scalars(work_dir, runner.spec.began)
    metrics = {
        k: v for k, v in (val[-1] if val else {}).items() if k not in ('step', 'time', 'data_time')
    }
    console.show(table(metrics, f'validation after {position_of(runner)}'))
    for name, value in metrics.items():
        if name.endswith(('mAP', 'mAP_50', 'mIoU')):
            console.say(f'{name}: {value:.4f}')
    if 'mini' in runner.spec.presets:
        console.say('(synthetic dataset: this shows that training learns, nothing more)')
    paths(work_dir, best_checkpoint(runner))


def best_checkpoint(runner: Any) -> Path | None:
    """The best checkpoint so far, None if the config keeps none."""
    best = runner.message_hub.runtime_info.get('best_ckpt')
    path = Path(runner.work_dir, Path(best).name) if best else None
    return path if path and path.is_file() else None


def paths(work_dir: Path, best: Path | None) -> None:
    """Print where checkpoint, curves and images are, as far as they exist."""
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        console.say(f'checkpoint: {pointer.read_text().strip()}')
    if best:
        console.say(f'best checkpoint: {best}')
    for name, path in (
        ('curves', work_dir / 'curves.png'),
        ('training images', work_dir / 'train_images.jpg'),
        ('images', work_dir / 'images'),
    ):
        if path.exists():
            console.say(f'{name}: {path}')


def write_metrics(metrics: Mapping[str, float], path: str | Path) -> None:
    """Write one flat JSON object, metric name to number."""
    write_atomic(path, (json.dumps(metrics, indent=2) + '\n').encode())
