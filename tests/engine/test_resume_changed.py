"""Resuming with other batches, another config or directory, and options that cannot change."""

import shutil
from pathlib import Path

import pytest
import torch
from mmdet.registry import OPTIMIZERS

from effvim.checkpoints import checkpoint
from tests.helpers import narrow
from tests.helpers.cli import run_command
from tests.helpers.training import (
    BATCHES,
    RETINANET,
    Recorder,
    built_runner,
    mistake,
    training_argv,
)

COSINE = """
_base_ = {base!r}
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0, by_epoch=False, begin=0, end=2),
    dict(
        type='CosineAnnealingLR', eta_min_ratio=0.1, begin=0, end=3, T_max=3, by_epoch=True,
        convert_to_iter_based=True,
    ),
]
"""
OF_TWO = ['train_dataloader.batch_size=2']  # images: three batches an epoch
SAVE_BEST = ['+default_hooks.checkpoint.save_best=coco/bbox_mAP']


def recorded(root, folder, *flags, epochs, more=(), config):
    """Train; returns the learning rate of each iteration."""
    options = [*narrow.RETINANET, f'train_cfg.max_epochs={epochs}', *more]
    running = built_runner(training_argv(root, folder, *flags, config=config, more=options))
    recorder = Recorder()
    running.register_hook(recorder)
    running.train()
    return recorder.rates


def test_an_epoch_may_have_other_batches_than_the_one_before(root, tmp_path):
    """It has all of its batches, and the rates of a run that had as many from the beginning."""
    path = tmp_path / 'cosine.py'
    path.write_text(COSINE.format(base=RETINANET))
    cosine = str(path)
    whole = recorded(root, tmp_path / 'whole', epochs=3, more=OF_TWO, config=cosine)
    assert len(whole) == 9 and whole[0] > 2 * whole[-1]
    folder = tmp_path / 'run'
    first = recorded(root, folder, epochs=1, config=cosine)
    assert len(first) == BATCHES
    second = recorded(root, folder, '--resume', epochs=2, more=OF_TWO, config=cosine)
    assert second == pytest.approx(whole[3:6], rel=1e-6)
    third = recorded(root, folder, '--resume', epochs=3, more=OF_TWO, config=cosine)
    assert third == pytest.approx(whole[6:], rel=1e-6)
    meta = checkpoint.read(folder / 'epoch_3.pth')['meta']
    assert (meta['epoch'], meta['iter']) == (3, 9)
    assert meta['effvim']['position'] == {'epoch': 3, 'batch': 0, 'batches_per_epoch': 3}


def test_a_run_that_goes_on_in_another_directory(root, tmp_path):
    """Leaves the files of the first one alone, also if it began as a copy of it."""
    first = tmp_path / 'first'
    argv = training_argv(root, first, more=SAVE_BEST)
    assert run_command('train', argv) == 0
    content = checkpoint.read(first / 'epoch_1.pth')
    content['message_hub']['runtime_info']['best_score'] = -1.0  # the next one is better
    checkpoint.write(first / 'epoch_1.pth', content)
    shutil.copytree(first, tmp_path / 'copy')
    before = {path.name: path.read_bytes() for path in first.glob('*.pth')}
    assert any(name.startswith('best_') for name in before)
    longer = [*SAVE_BEST, 'train_cfg.max_epochs=2']
    for folder, flags in (
        ('other', ['--resume', first / 'epoch_1.pth']),
        ('copy', ['--resume']),
    ):
        argv = training_argv(root, tmp_path / folder, *flags, more=longer)
        assert run_command('train', argv) == 0
        assert len(list((tmp_path / folder).glob('best_*'))) == 1
        assert {path.name: path.read_bytes() for path in first.glob('*.pth')} == before


def test_a_run_goes_on_with_another_config(root, tmp_path):
    """Which the checkpoints then name."""
    for name in ('a', 'b'):
        (tmp_path / f'my_{name}.py').write_text(f'_base_ = {RETINANET!r}\n')
    folder = tmp_path / 'run'
    for epochs, name, flags in ((1, 'a', []), (2, 'b', ['--resume'])):
        more = [*narrow.RETINANET, f'train_cfg.max_epochs={epochs}']
        config = str(tmp_path / f'my_{name}.py')
        argv = training_argv(root, folder, *flags, config=config, more=more)
        assert run_command('train', argv) == 0
        described = checkpoint.describe(checkpoint.read(folder / f'epoch_{epochs}.pth'))
        assert described['config'] == f'my_{name}.py'


def test_a_copy_of_a_config_trains_like_the_config(root, tmp_path):
    first = tmp_path / 'first'
    assert run_command('train', training_argv(root, first)) == 0
    copy = first / Path(RETINANET).name
    running = built_runner(
        training_argv(root, tmp_path / 'second', config=str(copy), more=narrow.RETINANET)
    )
    types = [type(hook).__name__ for hook in running.hooks]
    assert len(types) == len(set(types))
    (images,) = [hook for hook in running.hooks if type(hook).__name__ == 'EffViMImagesHook']
    assert Path(images.folder) == tmp_path / 'second/images'


def test_a_copy_of_a_resumed_runs_config(root, tmp_path, capsys):
    """It does not say which weights that run began with."""
    folder = tmp_path / 'run'
    for epochs, flags in ((1, []), (2, ['--resume'])):
        argv = training_argv(root, folder, *flags, more=[f'train_cfg.max_epochs={epochs}'])
        assert run_command('train', argv) == 0
    copy = str(folder / Path(RETINANET).name)
    capsys.readouterr()
    more = narrow.RETINANET
    line = mistake(capsys, 'train', training_argv(root, tmp_path / 'b', config=copy, more=more))
    assert 'was written by a run that was resumed' in line
    argv = training_argv(
        root, folder, '--resume', config=copy, more=[*more, 'train_cfg.max_epochs=3']
    )
    assert run_command('train', argv) == 0


class Sgd(torch.optim.SGD):
    """An optimizer that a user's module registers where mmdet looks for it."""


def test_a_users_optimizer(root, tmp_path):
    OPTIMIZERS.register_module(module=Sgd, force=True)
    config = tmp_path / 'my.py'
    optimizer = "dict(_delete_=True, type='Sgd', lr=1e-3)"
    config.write_text(f'_base_ = {RETINANET!r}\noptim_wrapper = dict(optimizer={optimizer})\n')
    argv = training_argv(root, tmp_path / 'run', config=str(config), more=narrow.RETINANET)
    running = built_runner(argv)
    wrapper = running.build_optim_wrapper(running.cfg.optim_wrapper)
    assert type(wrapper.optimizer) is Sgd


@pytest.mark.parametrize(
    'schedule',
    [
        dict(type='MultiStepLR', milestones=[1, 3], by_epoch=True, convert_to_iter_based=True),
        dict(type='StepLR', step_size=3, by_epoch=True, convert_to_iter_based=True),
        dict(type='MultiStepLR', milestones=[1, 3], by_epoch=True),
        dict(type='CosineAnnealingLR', T_max=2, begin=2, end=4, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', T_max=3, begin=1, end=4, convert_to_iter_based=True),
    ],
    ids=str,
)
def test_every_schedule_goes_on_at_its_point(schedule, root, tmp_path):
    """Rates after a change of the batch size are those of a run that had it from the beginning."""
    config = tmp_path / 'my.py'
    constant = dict(type='LinearLR', start_factor=1.0, by_epoch=False, begin=0, end=2)
    config.write_text(f'_base_ = {RETINANET!r}\nparam_scheduler = {[constant, schedule]}\n')
    rates = []
    for folder in ('whole', 'run'):
        at_first = OF_TWO if folder == 'whole' else []
        given = dict(config=str(config))
        recorded(root, tmp_path / folder, epochs=2, more=at_first, **given)
        more = [*OF_TWO, 'default_hooks.checkpoint.interval=4']
        rates.append(recorded(root, tmp_path / folder, '--resume', epochs=4, more=more, **given))
    assert len(rates[0]) == 6 and rates[1] == pytest.approx(rates[0], rel=1e-6)
    assert len(set(rates[0])) > 1


def test_a_config_of_the_users_is_not_replaced(root, tmp_path, capsys):
    config = tmp_path / 'my.py'
    config.write_text(f'_base_ = {RETINANET!r}\n')
    line = mistake(capsys, 'train', training_argv(root, tmp_path, config=str(config)))
    assert 'holds my.py, which would be replaced' in line
    assert config.read_text() == f'_base_ = {RETINANET!r}\n'


@pytest.mark.parametrize(
    'option',
    [
        'optim_wrapper.optimizer.lr=1e-6',
        '+optim_wrapper.paramwise_cfg.norm_decay_mult=0.0',
        'param_scheduler.0.start_factor=0.5',
    ],
)
def test_options_that_a_resumed_run_takes_from_its_checkpoint(option, whole, root, capsys):
    more = [option, 'train_cfg.max_epochs=3']
    line = mistake(capsys, 'train', training_argv(root, whole[0], '--resume', more=more))
    assert option.partition('=')[0].removeprefix('+') in line and 'load_from=' in line


@pytest.mark.parametrize(
    ('flags', 'options', 'words'),
    [
        (['--seed', -1], [], '--seed must be from 0 to 2147483647'),
        (['--seed', 2**32 - 1], [], '--seed must be from 0 to 2147483647'),
        ([], ['randomness.seed=-1'], 'randomness.seed must be a whole number from 0'),
        ([], ['optim_wrapper.accumulative_counts=0'], 'accumulative_counts must be a whole number'),
        ([], ['train_cfg.max_epochs=0'], 'train_cfg.max_epochs must be a whole number from 1'),
        ([], ['train_cfg.max_epochs=abc'], 'train_cfg.max_epochs must be a whole number from 1'),
        ([], ['train_cfg.val_interval=0'], 'train_cfg.val_interval must be a whole number from 1'),
        ([], ['optim_wrapper.optimizer.lr=fast'], 'optim_wrapper.optimizer.lr must be a number'),
        ([], ['optim_wrapper.optimizer.lr=-0.1'], 'optim_wrapper.optimizer.lr must be a number'),
    ],
)
def test_numbers_out_of_range(flags, options, words, root, tmp_path, capsys):
    line = mistake(capsys, 'train', training_argv(root, tmp_path, *flags, more=options))
    assert words in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('optim_wrapper.optimizer.type=AdamX', 'AdamX'),
        ('model.bbox_head.type=RetinaHeat', 'RetinaHeat'),
        ('param_scheduler.0.type=LinearXR', 'LinearXR'),
        ('default_hooks.checkpoint.save_best=coco/bbox_mAP50', 'coco/bbox_mAP_50'),
        ('default_hooks.logger=None', 'default_hooks.logger=None'),
    ],
)
def test_misspelt_names(option, words, root, tmp_path, capsys):
    option = f'+{option}' if 'save_best' in option else option
    assert run_command('train', training_argv(root, tmp_path, more=[option])) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith('error: ') and words in err[-1]
    assert not any('Traceback' in line for line in err)


def test_whole_numbers_that_are_written_as_fractions(root, tmp_path):
    cfg = built_runner(training_argv(root, tmp_path, more=['train_cfg.max_epochs=1e0'])).cfg
    assert cfg.train_cfg.max_epochs == 1


def test_incomplete_batches_are_dropped(root, tmp_path):
    """Five images in batches of two, of which RetinaNet's hold one orientation each."""
    more = [*OF_TWO, '+train_dataloader.drop_last=True']
    running = built_runner(training_argv(root, tmp_path, more=more))
    loader = running.build_train_loop(running.cfg.train_cfg).dataloader
    assert [len(batch['inputs']) for batch in loader] == [2, 2] and len(loader) == 2
