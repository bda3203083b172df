"""Trains detectors and segmentors on real datasets for docs/real_data.md, all for the same time.

    python -m maintenance.real_data DATA [--only DATASET] [--models CONFIG …] [--seeds 0 1 2]

DATA holds the directories bccd, raccoon and nuclei as they are published. Results go into
docs/real_data.json; `make tables` writes them into the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

from effvim import console
from effvim.benchmark.timing import environment
from effvim.config.precision import amp_is_faster
from effvim.config.structure import evaluation_resize, pair
from effvim.files import write_atomic
from effvim.formats.schedule import Schedule
from effvim.visualization.curves import read_scalars

ROOT = Path(__file__).resolve().parents[1]

RESULTS = ROOT / 'docs/real_data.json'

CLASSWISE = ('--cfg-options', '+test_evaluator.classwise=True')

DETECTORS = (
    'configs/rtmdet_effvim_m1.py',
    'configs/retinanet_effvim_m1.py',
    'maintenance/peers/rtmdet_tiny.py',
    'maintenance/peers/retinanet_r18.py',
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A dataset, its models, and how long each may train, in minutes."""

    models: tuple[str, ...]
    minutes: float
    command: str  # of effvim data
    source: str


# RetinaNet sees images at about their own size: half the pixels of what is fitted without the flag,
# so about twice the epochs in the same time.
FLAGS = dict.fromkeys(('retinanet_effvim_m1', 'retinanet_r18'), ('--image-size', '640'))

TASKS = {
    'bccd': Task(DETECTORS, 10, 'convert', 'bccd'),
    'raccoon': Task(DETECTORS, 5, 'split', 'raccoon'),
    'nuclei': Task(('configs/mask_rcnn_effvim_m1.py',), 12, 'split', 'nuclei'),
    'nuclei_masks': Task(('configs/semfpn_effvim_m1.py',), 5, 'split', 'nuclei'),
}


def prepare(name: str, data: Path, folder: Path) -> Path:
    """The dataset as `effvim train --data` takes it, written on the first call."""
    ready = folder / name
    if ready.exists():
        return ready
    task = TASKS[name]
    if name == 'nuclei_masks':
        masks = folder / 'nuclei_label_maps'
        write_label_maps(prepare('nuclei', data, folder), masks)
        effvim('data', 'convert', masks, ready)
    else:
        effvim('data', task.command, data / task.source, ready)
    return ready


def write_label_maps(instances: Path, target: Path) -> None:
    """The objects of a dataset in COCO's layout as one class of label maps, others background."""
    for split in ('train', 'val'):
        coco = COCO(instances / f'annotations/instances_{split}2017.json')
        for kind in ('images', 'masks'):
            (target / kind / split).mkdir(parents=True, exist_ok=True)
        for image in coco.loadImgs(coco.getImgIds()):
            labels = np.zeros((image['height'], image['width']), np.uint8)
            for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
                labels |= coco.annToMask(annotation)
            name = Path(image['file_name'])
            shutil.copy(instances / f'{split}2017' / name, target / 'images' / split / name.name)
            Image.fromarray(labels).save(target / 'masks' / split / f'{name.stem}.png')
    (target / 'classes.txt').write_text('background\nnucleus\n')


def effvim(*words: Any) -> None:
    """Run a command line in a process of its own."""
    subprocess.run([sys.executable, '-m', 'effvim', *map(str, words)], check=True, cwd=ROOT)


def train(config: str, ready: Path, work_dir: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train from random weights; what training took and reached on the validation set."""
    began = time.time()
    effvim(
        *('train', config, '--data', ready, '--from-scratch', '--epochs', epochs),
        *('--seed', seed, '--work-dir', work_dir, *FLAGS.get(Path(config).stem, ())),
        *(['--amp'] if amp_is_faster() else []),
        *([] if 'semfpn' in str(config) else CLASSWISE),
    )
    train_log, val_log = read_scalars(work_dir)
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    (dumped,) = work_dir.glob('*/vis_data/config.py')
    cfg = Config.fromfile(dumped)
    return dict(
        epochs=epochs,
        seconds=scalars.stat().st_mtime - began,  # with start-up and validations
        seconds_per_step=float(np.median([line['time'] for line in train_log])),
        seconds_per_validation_batch=float(np.median([line['time'] for line in val_log])),
        validation_batch_size=cfg.val_dataloader.batch_size,
        image_scale=list(pair(evaluation_resize(cfg).scale)),
        metrics=json.loads((work_dir / 'metrics.json').read_text()),
    )


def affordable_epochs(trial: dict[str, Any], ready: Path, seconds: float) -> int:
    """The most epochs that fit into a time, by what a short run took."""
    num_train, num_val = sizes_of(ready)
    validation = (
        math.ceil(num_val / trial['validation_batch_size']) * trial['seconds_per_validation_batch']
    )

    def training(epochs: int) -> float:
        schedule = Schedule(num_train, num_val, epochs)
        return schedule.steps * trial['seconds_per_step'] + schedule.validations * validation

    start_up = max(0.0, trial['seconds'] - training(trial['epochs']))
    epochs = 1
    while start_up + training(epochs + 1) <= seconds:
        epochs += 1
    return epochs


def sizes_of(ready: Path) -> tuple[int, int]:
    """Numbers of training and validation images."""
    masks = ready / 'images'
    names = ('training', 'validation') if masks.is_dir() else ('train2017', 'val2017')
    folders = [(masks if masks.is_dir() else ready) / name for name in names]
    train, val = (len(list(folder.iterdir())) for folder in folders)
    return train, val


def main() -> None:
    """Run what is asked for; results that are there are replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--only', choices=TASKS, nargs='+', default=list(TASKS))
    parser.add_argument('--models', nargs='+', metavar='CONFIG')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--minutes', type=float, help='of each training (default: by dataset)')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/real_data')
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        ready, minutes = prepare(name, args.data, args.work), args.minutes or TASKS[name].minutes
        for config in args.models or TASKS[name].models:
            model, trial = Path(config).stem, None
            for seed in args.seeds:
                work_dir = args.work / f'{name}-{model}-{seed}'
                if trial is None:
                    short = work_dir.with_name(f'{work_dir.name}-trial')
                    shutil.rmtree(short, ignore_errors=True)
                    trial = train(config, ready, short, seed, 2)
                    epochs = affordable_epochs(trial, ready, 60 * minutes)
                shutil.rmtree(work_dir, ignore_errors=True)
                result = train(config, ready, work_dir, seed, epochs)
                keep(dict(dataset=name, model=model, seed=seed, minutes=minutes, **result))


def keep(result: dict[str, Any]) -> None:
    """Put a result into the file, in place of an earlier one of the same run."""
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {'runs': []}
    key = ('dataset', 'model', 'seed')
    runs = [run for run in content['runs'] if any(run[k] != result[k] for k in key)]
    runs.append(result | dict(date=f'{datetime.date.today()}'))
    content = dict(
        **environment(torch.device('cpu')),
        runs=sorted(runs, key=lambda run: [str(run[k]) for k in key]),
    )
    write_atomic(RESULTS, (json.dumps(content, indent=1) + '\n').encode())
    console.say(f'{result["dataset"]} {result["model"]}: {result["metrics"]}')


if __name__ == '__main__':
    main()
