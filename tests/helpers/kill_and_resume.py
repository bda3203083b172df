"""Kill small runs at random moments, resume them, and compare with undisturbed runs.

    python -m tests.helpers.kill_and_resume [--kills 20] [--seed 0]

Every run is a process of its own, forked from this one to save the seconds of importing mmdet.
The exit status is 1 if a run differs or left a checkpoint that cannot be read.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from effvim.checkpoints import checkpoint
from effvim.config.reading import import_plugins, load_config
from effvim.datasets import synthetic
from effvim.engine import lock
from tests.helpers import forked, narrow
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

RETINANET, SEMFPN = (str(ROOT / f'configs/{name}_effvim_m1.py') for name in ('retinanet', 'semfpn'))
DETECTION = [
    *narrow.RETINANET,
    'train_dataloader.batch_size=2',
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'train_cfg.max_epochs=2',
    'optim_wrapper.accumulative_counts=2',
    '+default_hooks.checkpoint.save_best=auto',
    '+model.backbone.drop_path_rate=0.2',
    'val_dataloader.num_workers=0',
]
SEGMENTATION = [
    'train_dataloader.batch_size=2',
    'train_dataloader.dataset.pipeline.2.scale=(256,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(256,64)',
    'train_cfg.max_iters=10',
    'train_cfg.val_interval=5',
    'val_dataloader.num_workers=0',
    '+default_hooks.checkpoint.save_best=mIoU',
]
# name: config, flags, options, the last checkpoint
RUNS = {
    'epochs': (RETINANET, ['--ema'], [*DETECTION, 'train_dataloader.num_workers=1'], 'epoch_2.pth'),
    'iterations': (
        SEMFPN,
        [],
        [*SEGMENTATION, 'default_hooks.checkpoint.interval=3', 'train_dataloader.num_workers=0'],
        'iter_10.pth',
    ),
    'inside epochs': (
        RETINANET,
        [],
        [
            *DETECTION,
            'default_hooks.checkpoint.interval=1',
            'train_dataloader.num_workers=2',
            '+default_hooks.checkpoint.by_epoch=False',
        ],
        'iter_10.pth',
    ),
    'averaged iterations': (
        SEMFPN,
        ['--ema'],
        [
            *SEGMENTATION,
            'default_hooks.checkpoint.interval=4',
            'train_dataloader.num_workers=1',
            'optim_wrapper.accumulative_counts=3',
        ],
        'iter_10.pth',
    ),
}
TIMES = ('/time', '/data_time', '/memory')


def draw(folder: Path) -> dict[str, Path]:
    """Draw synthetic datasets for both kinds of config; their roots by config."""
    coco = synthetic.draw_coco(folder / 'coco', num_train=10, num_val=2, size=64)
    ade = synthetic.draw_ade(folder / 'ade', num_train=5, num_val=2, size=64)
    for path in ade.glob('*/*/*.bmp'):
        kind = '.jpg' if path.parts[-3] == 'images' else '.png'
        Image.open(path).save(path.with_suffix(kind))
        path.unlink()
    return {RETINANET: coco, SEMFPN: ade}


def start(roots: dict[str, Path], name: str, folder: Path, *flags: str) -> int:
    """Start training in a process of its own; returns its id."""
    path, own, options, _ = RUNS[name]
    folder.mkdir(exist_ok=True)
    return forked.start(
        folder / 'output.txt',
        lambda: run_command(
            'train',
            [
                path,
                '--from-scratch',
                '--data-root',
                str(roots[path]),
                '--work-dir',
                str(folder),
                *own,
                *flags,
                '--cfg-options',
                *options,
            ],
        ),
    )


def wait(process: int) -> int:
    """The exit status of a process; minus the signal if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def state(content: dict) -> dict:
    """What two runs must agree on: everything but times and paths."""
    hub = content['message_hub']
    states = {
        name: content.get(name)
        for name in (
            'state_dict',
            'ema_state_dict',
            'optimizer',
            'param_schedulers',
            'random_states',
            'gradients',
        )
    }
    info = {
        name: value
        for name, value in hub['runtime_info'].items()
        if name in ('best_score', 'seed', 'loop_stage')
    }
    logs = {name: log.data for name, log in hub['log_scalars'].items() if not name.endswith(TIMES)}
    done = {name: content['meta'][name] for name in ('epoch', 'iter')}
    return {**states, 'info': info, 'logs': logs, 'done': done}


def difference(first, second, where: str = '') -> str:
    """Where two nested values differ first; empty if they are equal bit for bit."""
    if type(first) is not type(second):
        return f'{where}: {type(first)} and {type(second)}'
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return f'{where}: {sorted(map(str, first.keys() ^ second.keys()))}'
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return f'{where}: {len(first)} and {len(second)} items'
        pairs = [(i, *items) for i, items in enumerate(zip(first, second))]
    elif isinstance(first, torch.Tensor):
        return '' if torch.equal(first, second) else where
    elif isinstance(first, np.ndarray):
        return '' if np.array_equal(first, second, equal_nan=True) else where
    else:
        return '' if first == second or first != first != second else where
    return next(filter(None, (difference(a, b, f'{where}.{key}') for key, a, b in pairs)), '')


def in_a_process(*flags: str, timeout: float) -> str:
    """Run this file as a process of its own, which must succeed; returns what it prints."""
    done = subprocess.run(
        [sys.executable, '-m', 'tests.helpers.kill_and_resume', *flags],
        text=True,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


def main() -> int:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('MKL_CBWR', 'AUTO')
    chance = random.Random(args.seed)
    for path in (RETINANET, SEMFPN):
        import_plugins(load_config(path))
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        roots = draw(Path(temporary))
        wholes = {}
        for number in range(args.kills):
            name = list(RUNS)[number % len(RUNS)]
            last = RUNS[name][-1]
            if name not in wholes:
                whole, began = Path(temporary, f'whole {name}'), time.monotonic()
                if wait(start(roots, name, whole)):
                    print((whole / 'output.txt').read_text())
                    return 1
                wholes[name] = state(checkpoint.read(whole / last)), time.monotonic() - began
            expected, duration = wholes[name]
            folder = Path(temporary, f'run {number}')
            number_of_signal = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            process = start(roots, name, folder)
            time.sleep(moment := chance.uniform(0.1, 1) * duration)
            os.kill(process, number_of_signal)
            status = wait(process)
            written = sorted(path.name for path in checkpoint.newest_first(folder))
            trouble = ''
            for path in checkpoint.newest_first(folder):
                try:
                    checkpoint.read(path)
                except ValueError as error:
                    trouble = str(error)
            if status:
                began_there = (folder / lock.NAME).exists()
                status = wait(start(roots, name, folder, *['--resume'] * began_there))
                if status and 'has finished its' not in (folder / 'output.txt').read_text():
                    trouble = trouble or f'status {status} of the resumed run'
            trouble = trouble or difference(expected, state(checkpoint.read(folder / last)))
            print(
                f'{name}: {number_of_signal.name} after {moment:.1f} of {duration:.1f} s, had '
                f'{", ".join(written) or "none"}: {trouble or "equal"}',
                flush=True,
            )
            if trouble:
                bad += 1
                print((folder / 'output.txt').read_text()[-3000:])
    print(f'{args.kills - bad} of {args.kills} ended equal to the undisturbed run')
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
