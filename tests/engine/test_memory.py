"""A run that does not fit into memory says so before it starts, or in one line when it ends."""

import errno
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from backbone import UserError
from effvim.checkpoints import checkpoint
from effvim.config.input_size import InputSize, largest_input
from effvim.config.reading import load_config
from effvim.config.run_spec import RunSpec
from effvim.engine import fitting_batch, memory, out_of_memory, step_memory
from effvim.engine.runner import Runner
from effvim.engine.step_memory import StepMemory, padded_shape
from tests.helpers.cli import prepared_training, run_command
from tests.helpers.paths import ROOT
from tests.helpers.runs import ADE, TEST
from tests.helpers.training import BATCHES, RANDOM, RETINANET, SEMFPN, training_argv

MIB = 2**20
SIZE = '(384,288)'  # 160 MiB for an image
LARGE = [
    f'train_dataloader.dataset.pipeline.2.scale={SIZE}',
    'train_dataloader.batch_size=16',
]
# 1,000 MiB for the process and 100 for each image
LINEAR = StepMemory({1: 1100, 2: 1200, 4: 1400})


def set_free(monkeypatch, mebibytes):
    monkeypatch.setattr(memory, 'available_memory', lambda: int(mebibytes * MIB))


def set_measured(monkeypatch, measured):
    """Let a measurement have this result; returns the list of the measurements."""
    calls = []

    def measure(*arguments):
        calls.append(arguments)
        return measured

    monkeypatch.setattr(step_memory, 'measure', measure)
    return calls


def measure(argv):
    cfg, spec = prepared_training([str(a) for a in argv])
    return step_memory.measure(cfg, spec, 64 * 2**30)


def train(argv, capsys, status=0):
    """Run `effvim train`; its stdout, and the one line on stderr of a mistake."""
    capsys.readouterr()
    assert run_command('train', [str(a) for a in argv]) == status
    out, err = capsys.readouterr()
    if status:
        assert err.startswith('error: ') and err.count('\n') == 1
    return out, err


def options_in(line):
    return re.search(r'--cfg-options ((?:[+\w.]+=[^\s,]+ ?)+)', line).group(1).split()


def losses(folder):
    """The losses of a run, by iteration."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    rows = map(json.loads, path.read_text().splitlines())
    return [row['loss'] for row in rows if 'loss' in row]


class FailAt(Hook):
    """Raises an error before iteration `when`, from 1."""

    def __init__(self, when, error):
        self.when, self.error = when, error

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.when:
            raise self.error


def failing(monkeypatch, *arguments):
    """Let the runs of this process fail, see `FailAt`."""
    original = Runner.__init__

    def begin(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.register_hook(FailAt(*arguments))

    monkeypatch.setattr(Runner, '__init__', begin)


def test_too_large_is_one_line_with_a_batch_that_fits(root, tmp_path, capsys, monkeypatch):
    """Measured in earnest: the batch of the line needs less, by the same measure, than is free."""
    argv = training_argv(root, tmp_path / 'run', more=LARGE)
    measured = measure(argv)
    assert list(measured.peaks) == [1, 2, 4] and not measured.exhausted
    assert measured.peaks[4] > measured.peaks[1] + 50 and measured.gradients > 20
    free = (measured.needed(8) + measured.needed(16)) / 2
    set_free(monkeypatch, free)
    out, line = train(argv, capsys, status=2)
    assert 'measuring the memory' in out
    assert re.search(r'a training step on 16 images needs about [\d,]+ MiB of memory', line)
    assert f'{int(free * MIB) / MIB:,.0f} MiB are free: pass --auto-batch, or' in line
    options = dict(option.split('=') for option in options_in(line))
    batch_size = int(options['train_dataloader.batch_size'])
    assert batch_size * int(options['optim_wrapper.accumulative_counts']) == 16
    assert 1 < batch_size < 16
    smaller = measure([*argv, *options_in(line)])
    assert smaller.needed(batch_size, copies=1) < free
    averaged = measure([*argv, '--ema'])  # which keeps the weights twice
    assert averaged.needed(4) > measured.needed(4) + 0.7 * measured.gradients
    assert not [*(tmp_path / 'run').glob('*.pth')] and not [*(tmp_path / 'run').glob('*/vis_data')]


def test_auto_batch_keeps_the_total(root, tmp_path, capsys, monkeypatch):
    """Two batches of two for one of four; the warm-up is as long in steps; --resume keeps that."""
    more = ['train_dataloader.batch_size=4', 'train_cfg.max_epochs=2']
    argv = training_argv(root, tmp_path, '--auto-batch', more=more)
    set_free(monkeypatch, 1390)
    calls = set_measured(monkeypatch, LINEAR)
    out, _ = train(argv, capsys)
    assert len(calls) == 1
    assert 'a training step on 4 images needs about 1,400 MiB of memory, 1,390 MiB are free' in out
    assert (
        '--auto-batch trains with train_dataloader.batch_size=2 '
        'optim_wrapper.accumulative_counts=2 param_scheduler.0.end=1002, 4 images a step' in out
    )
    content = checkpoint.read(tmp_path / 'epoch_2.pth')
    assert checkpoint.describe(content)['batch'] == {
        'train_dataloader.batch_size': 2,
        'optim_wrapper.accumulative_counts': 2,
        'param_scheduler.0.end': 1002,
    }
    assert content['meta']['iter'] == 6  # five images
    assert {int(s['step']) for s in content['optimizer']['state'].values()} == {3}

    argv += ['train_cfg.max_epochs=3']  # the command as it was, which asks for a batch of four
    calls = set_measured(monkeypatch, LINEAR)
    set_free(monkeypatch, 1190)
    argv.insert(1, '--resume')
    capsys.readouterr()
    assert run_command('train', argv) == 0
    err = capsys.readouterr().err
    assert len(calls) == 1
    assert 'warning: a training step on 2 images needs about 1,200 MiB of memory' in err
    assert 'a resumed run keeps its batch' in err
    assert checkpoint.read(tmp_path / 'epoch_3.pth')['meta']['iter'] == 9


def test_enough_memory_is_not_measured(root, tmp_path, capsys, monkeypatch):
    set_free(monkeypatch, 8192)
    calls = set_measured(monkeypatch, LINEAR)
    out, _ = train(training_argv(root, tmp_path), capsys)
    assert not calls and 'measuring the' not in out


def test_what_cannot_be_measured_is_said_and_trained(root, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise step_memory.MeasuringFailed('KeyError: mine')

    set_free(monkeypatch, 1200)
    monkeypatch.setattr(step_memory, 'measure', fail)
    assert run_command('train', training_argv(root, tmp_path)) == 0
    assert 'could not be measured: KeyError: mine' in capsys.readouterr().err
    assert (tmp_path / 'epoch_1.pth').exists()


def test_measuring_changes_nothing(root, tmp_path, capsys, monkeypatch):
    """Losses, weights and random states with and without a measurement: bit for bit."""
    more = [*RANDOM, 'default_hooks.logger.interval=1']
    set_free(monkeypatch, 8192)
    out, _ = train(training_argv(root, tmp_path / 'plain', more=more), capsys)
    assert 'measuring the' not in out
    set_free(monkeypatch, 1900)
    out, _ = train(training_argv(root, tmp_path / 'measured', more=more), capsys)
    assert 'measuring the' in out
    plain, measured = (losses(tmp_path / name) for name in ('plain', 'measured'))
    assert plain == measured and len(plain) == 5
    plain, measured = (
        checkpoint.read(tmp_path / name / 'epoch_1.pth') for name in ('plain', 'measured')
    )
    for part in ('state_dict', 'gradients'):
        torch.testing.assert_close(plain[part], measured[part], rtol=0, atol=0)
    moments = [content['optimizer']['state'] for content in (plain, measured)]
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    plain, measured = plain['random_states'], measured['random_states']
    assert plain['python'] == measured['python']
    assert plain['torch'].equal(measured['torch'])
    assert plain['numpy'][1].equal(measured['numpy'][1])
    assert plain['numpy'][2:] == measured['numpy'][2:]


CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
ERRORS = [
    RuntimeError(f'[enforce fail at alloc_cpu.cpp:118] err == 0. {CPU}'),
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.'),
    MemoryError(),
]


@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_in_the_run(root, tmp_path, capsys, monkeypatch, error):
    """In the second epoch: one line that names the checkpoint, and how to continue."""
    more = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=2']
    argv = training_argv(root, tmp_path, more=more)
    with monkeypatch.context() as patched:
        failing(patched, 5, error)
        _, line = train(argv, capsys, status=2)
    assert 'out of memory in iteration 5, with a batch of 2 images' in line
    assert f'the last checkpoint {tmp_path / "epoch_1.pth"} is kept' in line
    assert 'MiB are free now' in line
    checkpoint.read(tmp_path / 'epoch_1.pth')
    if error is ERRORS[0]:
        train([argv[0], '--resume', *argv[1:], *options_in(line)], capsys)
        content = checkpoint.read(tmp_path / 'epoch_2.pth')
        assert checkpoint.describe(content)['options']['optim_wrapper.accumulative_counts'] == 2


def test_out_of_memory_before_a_checkpoint(root, tmp_path, capsys, monkeypatch):
    failing(monkeypatch, 2, ERRORS[0])
    more = ['train_dataloader.batch_size=2']
    _, line = train(training_argv(root, tmp_path, more=more), capsys, status=2)
    assert 'no checkpoint was saved yet: pass --auto-batch, or --cfg-options' in line
    assert 'train_dataloader.batch_size=1 optim_wrapper.accumulative_counts=2' in line


def test_out_of_memory_in_a_validation(root, tmp_path, capsys, monkeypatch):
    """Another batch of training would not help."""

    def fail(*_, **__):
        raise ERRORS[0]

    more = ['val_dataloader.batch_size=2', 'train_cfg.max_epochs=2']
    argv = training_argv(root, tmp_path, more=more)
    with monkeypatch.context() as patched:
        patched.setattr('mmengine.model.BaseModel.val_step', fail)
        _, line = train(argv, capsys, status=2)
    assert f'out of memory in the validation after iteration {BATCHES}, with a batch of 2' in line
    assert f'the last checkpoint {tmp_path / "epoch_1.pth"} is kept' in line
    assert options_in(line) == ['val_dataloader.batch_size=1']
    assert '--resume' in line and 'train_dataloader' not in line and 'auto-batch' not in line


def test_other_errors_are_none_of_memory():
    for error in (RuntimeError('shape mismatch'), OSError(errno.ENOSPC, 'full'), ValueError()):
        assert not out_of_memory.is_out_of_memory(error)
    assert out_of_memory.is_out_of_memory(OSError(errno.ENOMEM, 'Cannot allocate memory'))


def test_measured_segmentor(tmp_path, capsys, monkeypatch):
    """Counted in iterations, the schedule becomes longer by what is accumulated."""
    from effvim.datasets import synthetic

    root = synthetic.draw_ade(tmp_path / 'ade', num_train=4, num_val=2, size=96)
    options = [
        *ADE,
        *TEST['semfpn'],
        'train_dataloader.dataset.pipeline.2.scale=(128,128)',
        'train_dataloader.num_workers=0',
        'train_dataloader.batch_size=4',
    ]
    argv = [SEMFPN, '--from-scratch', '--data-root', root, '--work-dir', tmp_path / 'run']
    argv += ['--cfg-options', *options]
    measured = measure(argv)
    # its last map is one pixel: BN needs two images
    assert list(measured.peaks) == [2, 4] and measured.smallest == 2
    set_free(monkeypatch, 1390)
    set_measured(monkeypatch, LINEAR)
    _, line = train(argv, capsys, status=2)
    assert options_in(line) == [
        'train_dataloader.batch_size=2',
        'optim_wrapper.accumulative_counts=2',
        'train_cfg.max_iters=6',
        'train_cfg.val_interval=6',
        'default_hooks.checkpoint.interval=6',
        'param_scheduler.0.end=80002',
    ]


def test_not_even_one_image_fits(root, tmp_path, capsys, monkeypatch):
    set_free(monkeypatch, 900)
    set_measured(monkeypatch, LINEAR)
    more = ['train_dataloader.batch_size=4']
    _, line = train(training_argv(root, tmp_path, '--auto-batch', more=more), capsys, status=2)
    assert 'no smaller batch fits (the smallest takes 1,100 MiB)' in line and '--amp' in line


@pytest.mark.parametrize(
    'measured, batch_size, suggested',
    [
        (LINEAR, 16, 4),  # 9 tenths of 2,000 would hold 8
        (StepMemory({1: 1100}, exhausted=True), 16, 1),
        (StepMemory({2: 1100, 4: 1700}, smallest=2), 14, 2),
        (StepMemory({1: 1100, 2: 1100}, workers=100), 16, 2),
        (StepMemory({1: 1100, 2: 1600}), 7, 1),
        (StepMemory({1: 1000, 2: 1100}, gradients=200), 16, 2),  # 4 without those accumulated
        (StepMemory({1: 1000, 2: 1100}, optimizer=1480), 16, 4),
    ],
)
def test_suggested_batch(measured, batch_size, suggested, monkeypatch):
    """The largest divisor that fits into nine tenths of what is free."""
    set_free(monkeypatch, 1650)
    set_measured(monkeypatch, measured)
    cfg = load_config(RETINANET)
    cfg.train_dataloader.batch_size = batch_size
    prepared = SimpleNamespace(cfg=cfg, spec=RunSpec())
    with pytest.raises(UserError, match=f'train_dataloader.batch_size={suggested} '):
        fitting_batch.ensure_fits(prepared)
    fitting_batch.ensure_fits(prepared, auto_batch=True)
    assert cfg.train_dataloader.batch_size == suggested
    assert cfg.optim_wrapper.accumulative_counts == batch_size // suggested


def test_a_chosen_batch_gives_way_to_another_choice():
    """On resuming: a repeated command changes nothing."""
    chosen = {'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 4}
    old = RunSpec(options={'train_dataloader.batch_size': 8}, batch=chosen).to_dict()
    for options, batch in (
        ({}, chosen),
        ({'train_dataloader.batch_size': 8}, chosen),
        ({'train_dataloader.batch_size': 1, '+optim_wrapper.accumulative_counts': 8}, {}),
    ):
        assert RunSpec(options=options).adopt(old, None, 'run.pth').batch == batch


@pytest.mark.parametrize('rank', [0, 1])
def test_the_first_rank_decides_for_all(rank, monkeypatch):
    """The others print nothing and end after it."""
    ended = []
    monkeypatch.setattr(fitting_batch.dist, 'get_rank', lambda: rank)
    monkeypatch.setattr(fitting_batch.dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(fitting_batch.time, 'sleep', ended.append)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    calls = set_measured(monkeypatch, LINEAR)
    set_free(monkeypatch, 2600)  # 1,300 for each
    sent = fitting_batch._Decision(error='too large')

    def broadcast(objects):
        if rank:
            objects[0] = sent

    monkeypatch.setattr(fitting_batch.dist, 'broadcast_object_list', broadcast)
    prepared = SimpleNamespace(cfg=load_config(RETINANET), spec=RunSpec())
    with pytest.raises(UserError if rank == 0 else SystemExit) as raised:
        fitting_batch.ensure_fits(prepared)
    if rank:
        assert raised.value.code == 2 and ended and not calls
    else:
        assert '1,300 MiB are free for each of 2 processes' in str(raised.value)
        assert 'keeps 32 images a step' in str(raised.value)


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs').glob('**/*effvim*.py')), ids=lambda p: p.stem
)
def test_every_config_says_its_largest_input(path):
    cfg = load_config(str(path))
    size = largest_input(cfg)
    expected = (512, 512) if cfg.default_scope == 'mmseg' else (640, 640)
    if cfg.train_dataloader.get('batch_sampler'):
        expected = (800, 1333)
    assert tuple(sorted(size[:2])) == expected and size.fixed == (expected != (800, 1333))


def pipeline(*steps):
    return Config(dict(train_dataloader=dict(dataset=dict(pipeline=list(steps)))))


@pytest.mark.parametrize(
    'steps, expected',
    [
        ([dict(type='LoadImageFromFile')], None),
        ([dict(type='Resize', scale=(300, 200), keep_ratio=True)], (300, 200, False)),
        ([dict(type='Resize', scale=(300, 200))], (300, 200, True)),
        (
            [dict(type='RandomResize', scale=(300, 200), ratio_range=(0.5, 2), keep_ratio=True)],
            (600, 400, False),
        ),
        (
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 1000), (600, 1000)],
                    resize_cfg=dict(type='Resize', keep_ratio=True),
                ),
                dict(type='RandomFlip', prob=0.5),
            ],
            (600, 1000, False),
        ),
        (
            [
                dict(
                    type='RandomChoice',
                    transforms=[
                        [dict(type='Resize', scale=(900, 900), keep_ratio=True)],
                        [dict(type='RandomCrop', crop_size=(384, 600))],
                    ],
                )
            ],
            (900, 900, False),
        ),
        (
            [
                dict(type='Resize', scale=900),
                dict(type='RandomCrop', crop_type='relative', crop_size=(0.5, 0.5)),
            ],
            (900, 900, True),
        ),
        (
            [dict(type='Resize', scale=900), dict(type='RandomCrop', crop_size=(64, 32))],
            (64, 32, True),
        ),
    ],
)
def test_largest_input(steps, expected):
    assert largest_input(pipeline(*steps)) == (expected and InputSize(*expected))


def test_batches_are_padded_to_the_largest_of_their_orientation():
    size = InputSize(1333, 800, False)
    mixed = np.array([[640, 480], [480, 640], [800, 400]])
    assert padded_shape(size, mixed, True) == (1333, 800)
    assert padded_shape(size, mixed, False) == (1333, 1067)
    assert padded_shape(size, mixed[:1], False) == (1067, 800)
    assert padded_shape(size, np.empty((0, 2)), False) == (1333, 1333)
    assert padded_shape(InputSize(640, 640, True), mixed, False) == (640, 640)


@pytest.mark.parametrize('version', [1, 2])
def test_limits_of_control_groups_count(version, tmp_path, monkeypatch):
    """A batch job's directory has no limit of its own, the one above it 3 GiB."""
    prefix, names = {
        1: ('4:cpu,memory:', ('memory.limit_in_bytes', 'memory.usage_in_bytes')),
        2: ('0::', ('memory.max', 'memory.current')),
    }[version]
    cached = 'total_inactive_file' if version == 1 else 'inactive_file'
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text(f'1:name=systemd:/\n{prefix}/jobs/7\n')
    mount = tmp_path / ('sys/fs/cgroup/memory' if version == 1 else 'sys/fs/cgroup')
    unlimited = '9223372036854771712' if version == 1 else 'max'
    for folder, limit in ((mount / 'jobs/7', unlimited), (mount / 'jobs', str(3 * 2**30))):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'memory.stat').write_text(f'anon 5\n{cached} {2**28}\n')
        for name, value in zip(names, (limit, str(2**30))):
            (folder / name).write_text(f'{value}\n')
    assert not list(memory.control_group_limits(tmp_path / 'absent'))
    limits = list(memory.control_group_limits(tmp_path))
    assert (3 * 2**30, 2**30 - 2**28) in limits and len(limits) == 3 - version
    monkeypatch.setattr(memory, 'control_group_limits', lambda: limits)
    big = SimpleNamespace(total=64 * 2**30, available=60 * 2**30)
    monkeypatch.setattr(memory.psutil, 'virtual_memory', lambda: big)
    assert memory.machine_memory() == (3 * 2**30, 2**31 + 2**28)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_the_peak_of_a_process_is_its_own():
    """Not that of a large process that started it, as `getrusage` says on Linux."""
    code = 'from effvim.engine.memory import peak_memory; print(peak_memory())'
    ballast = np.ones(2**28)  # 2 GiB, in memory
    peaks = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 50 < int(peaks.stdout) < 1500 and ballast[-1]
