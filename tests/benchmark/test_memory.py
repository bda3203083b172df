"""`effvim benchmark memory`: peak memory of training."""

import re

import pytest

from effvim.datasets import synthetic
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT


def test_memory_of_training_is_measured(tmp_path, capsys):
    root = synthetic.draw_coco(tmp_path / 'coco', num_train=4, num_val=1, size=64)
    assert (
        run_command(
            'benchmark',
            [
                'memory',
                str(ROOT / 'configs/retinanet_effvim_m1.py'),
                '--data-root',
                str(root),
                '--cfg-options',
                'train_dataloader.batch_size=1',
                'train_dataloader.num_workers=0',
                'train_dataloader.dataset.pipeline.2.scale=(64,64)',
            ],
        )
        == 0
    )
    match = re.fullmatch(
        r'retinanet_effvim_m1.py, batch 1: ([0-9,]+) MiB on .+\n', capsys.readouterr().out
    )
    # weights, gradients and AdamW's two moments, in float32
    assert int(match[1].replace(',', '')) > 14e6 * 4 * 4 / 2**20


@pytest.mark.parametrize('flag', ['--resume', '--dry-run', '--tensorboard', '--auto-batch'])
def test_flags_of_a_whole_run_are_refused(flag, capsys):
    assert run_command('benchmark', ['memory', 'retinanet_effvim_m1', flag]) == 2
    assert f'unrecognized arguments: {flag}' in capsys.readouterr().err
