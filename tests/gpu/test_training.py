"""Training and prediction on a GPU: the three tasks, in every precision, resumed, on two GPUs."""

import json
import math
import subprocess
import sys

import pytest
import torch

from effvim import Predictor
from effvim.checkpoints import checkpoint
from tests.helpers.cli import run_command
from tests.helpers.networks import relative
from tests.helpers.paths import ROOT
from tests.helpers.runs import ADE, KINDS, TEST

pytestmark = pytest.mark.gpu
PRECISIONS = ('float32', 'bfloat16', 'float16')


def arguments(kind, roots, folder, *flags, more=()):
    """The command line of a run of 32 steps of 8 images an epoch, one epoch."""
    options = list(ADE) if kind == 'semfpn' else ['train_cfg.max_epochs=1']
    if kind == 'semfpn':
        options += [
            'train_cfg.max_iters=32',
            'train_cfg.val_interval=32',
            'default_hooks.checkpoint.interval=32',
            'train_dataloader.dataset.pipeline.3.crop_size=(128,128)',
            'model.data_preprocessor.size=(128,128)',
        ]
    options += [option for option in TEST[kind] if 'test_cfg' in option]
    options += [
        f'{loader}_dataloader.dataset.pipeline.{step}.scale=(224,224)'
        for loader, step in (('train', 2), ('val', 1), ('test', 1))
    ]
    options += [
        'train_dataloader.batch_size=8',
        'default_hooks.logger.interval=1',
        'param_scheduler.0.end=8',
        'optim_wrapper.optimizer.lr=5e-4',
    ]
    return [
        str(ROOT / f'configs/{kind}_effvim_m1.py'),
        '--from-scratch',
        '--data-root',
        str(roots[kind]),
        '--work-dir',
        str(folder),
        *flags,
        '--cfg-options',
        *options,
        *more,
    ]


def train(*args, **kwargs):
    assert run_command('train', arguments(*args, **kwargs)) == 0


def losses(folder):
    """The loss of every step, as it was logged."""
    (path,) = folder.rglob('scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('kind', KINDS)
def test_training_learns_and_predicts_as_on_the_cpu(kind, precision, roots, tmp_path, monkeypatch):
    if precision == 'float16':  # the choice for a GPU that has no bfloat16
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: False)
    train(kind, roots, tmp_path, *['--amp'] * (precision != 'float32'))
    values = losses(tmp_path)
    assert len(values) == 32 and all(map(math.isfinite, values))
    assert sum(values[-8:]) < 0.9 * sum(values[:8])

    path = checkpoint.find_latest(tmp_path)
    if precision != 'float32':
        wrapper = checkpoint.read(path)['meta']['config']
        assert 'AmpOptimWrapper' in str(wrapper) and precision in str(wrapper)
    folder = roots[kind] / ('images/validation' if kind == 'semfpn' else 'val2017')
    images = sorted(map(str, folder.iterdir()))[:4]
    for found, expected in zip(*(Predictor(path, device=d)(images) for d in ('cuda', 'cpu'))):
        if kind == 'semfpn':
            assert (found.label_map == expected.label_map).mean() > 0.995
            continue
        assert len(expected.boxes)
        # rounding decides about boxes at the lowest kept score
        near = abs(found.boxes[:, None] - expected.boxes).max(-1).min(1)
        assert (near < 0.5).mean() > 0.9


@pytest.mark.parametrize('kind', KINDS)
def test_resumed_run_is_near_the_uninterrupted(kind, roots, tmp_path):
    """Sums on a GPU are added in changing order, so the two are not equal to the bit."""
    key = 'train_cfg.max_iters' if kind == 'semfpn' else 'train_cfg.max_epochs'
    twice = [f'{key}={64 if kind == "semfpn" else 2}']
    train(kind, roots, tmp_path / 'whole', more=twice)
    train(kind, roots, tmp_path / 'first')
    first = checkpoint.find_latest(tmp_path / 'first')
    train(kind, roots, tmp_path / 'second', '--resume', str(first), more=twice)
    whole, resumed = losses(tmp_path / 'whole')[32:], losses(tmp_path / 'second')
    assert len(whole) == len(resumed) == 32
    assert resumed[0] == pytest.approx(whole[0], rel=0.1)
    assert sum(resumed) == pytest.approx(sum(whole), rel=0.1)


def test_two_gpus_equal_one_of_the_same_total_batch(roots, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    fixed = ['train_dataloader.sampler.shuffle=False', 'train_dataloader.dataset.indices=16']
    fixed += ['train_dataloader.dataset.pipeline.3.prob=0.0']
    train('retinanet', roots, tmp_path / 'one', more=fixed)
    ranks = ['-m', 'torch.distributed.run', '--nproc-per-node=2', '--standalone']
    argv = arguments(
        'retinanet',
        roots,
        tmp_path / 'two',
        '--launcher',
        'pytorch',
        more=[*fixed, 'train_dataloader.batch_size=4'],
    )
    subprocess.run([sys.executable, *ranks, str(ROOT / 'tools/train.py'), *argv], check=True)
    first, second = (
        checkpoint.read(checkpoint.find_latest(tmp_path / name))['state_dict']
        for name in ('one', 'two')
    )
    for name, value in first.items():
        if name.endswith('.weight') and value.ndim > 1:
            assert relative(second[name].cpu(), value.cpu()) < 0.05, name
