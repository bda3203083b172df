"""Runs with `--data`: those that no longer improve stop; all are resumed by their directory."""

import dataclasses
import json
from pathlib import Path

import pytest

from backbone.errors import UserError
from effvim.checkpoints import checkpoint
from effvim.engine import lock, run_record
from tests.helpers.cli import prepared_training, run_command
from tests.helpers.custom_data import NO_WORKERS, run

EVERY_EPOCH = [
    '--cfg-options',
    'train_cfg.val_interval=1',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=9',
    *NO_WORKERS,
]


def test_a_run_that_does_not_improve_stops(shapes, capsys):
    """Without a learning rate nothing improves after the first of seven epochs."""
    assert run('split shapes ready') == 0
    argv = ['retinanet_effvim_m1', '--data', 'ready', '--from-scratch', '--epochs', '7']
    flags = ['--patience', '2', '--work-dir', 'run', *EVERY_EPOCH, 'optim_wrapper.optimizer.lr=0.0']
    assert run_command('train', [*argv, *flags]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert 'stopped early: coco/bbox_mAP has not improved in the last 2 validations' in out
    assert Path('run/last_checkpoint').read_text().strip().endswith('epoch_3.pth')
    assert 'best checkpoint: ' in out and 'bbox_mAP_epoch_1.pth' in out
    assert 'bbox_mAP_epoch_1.pth' in Path('run/report/report.html').read_text()
    assert json.loads(Path('run/metrics.json').read_text())['coco/bbox_mAP'] >= 0
    state = checkpoint.read(Path('run/epoch_3.pth'))['early_stopping']
    assert state['wait_count'] == 1  # before the validation that follows it

    for newer in Path('run').glob('epoch_[34].pth'):
        newer.unlink()
    argv = ['retinanet_effvim_m1', '--resume', '--work-dir', 'run']
    assert run_command('train', argv) == 0, capsys.readouterr().err
    assert 'stopped early' in capsys.readouterr().out
    assert Path('run/last_checkpoint').read_text().strip().endswith('epoch_3.pth')
    assert 'bbox_mAP_epoch_1.pth' in Path('run/report/report.html').read_text()

    # also from a checkpoint that was stored again with the best score
    for newer in Path('run').glob('epoch_[234].pth'):
        newer.unlink()
    assert run_command('train', argv) == 0, capsys.readouterr().err
    assert Path('run/last_checkpoint').read_text().strip().endswith('epoch_3.pth')


def test_a_run_that_ended_before_its_first_checkpoint(shapes, capsys):
    """It is resumed as it was asked for, with its data, like one with a checkpoint."""
    assert run('split shapes ready') == 0
    first = ['retinanet_effvim_m1', '--data', 'ready', '--from-scratch', '--epochs', '3']
    options = ['--cfg-options', *NO_WORKERS]
    cfg, spec = prepared_training([*first, '--work-dir', 'run', '--seed', '3', *options])
    with lock.held(Path('run')):
        run_record.write(Path('run'), spec)
    capsys.readouterr()
    resumed, again = prepared_training(['retinanet_effvim_m1', '--resume', '--work-dir', 'run'])
    assert 'starting anew' in capsys.readouterr().out
    assert again == spec and resumed.to_dict() == cfg.to_dict()
    Path('run', run_record.NAME).write_text("{'fitted': ")
    with pytest.raises(UserError, match='is damaged'):
        prepared_training(['retinanet_effvim_m1', '--resume', '--work-dir', 'run'])
    run_record.write(Path('run'), dataclasses.replace(spec, fitted={}))  # a new run, without --data
    assert run_record.read(Path('run')) is None
