"""Stopped runs resume as if nothing had happened; nothing on disk is lost."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from backbone.errors import UserError
from effvim.checkpoints import checkpoint
from effvim.engine import lock
from effvim.engine.randomness import random_states
from effvim.engine.runner import closing
from effvim.files import write_atomic
from tests.helpers.cli import prepared_training, run_command
from tests.helpers.kill_and_resume import difference, in_a_process, state
from tests.helpers.paths import ROOT
from tests.helpers.training import (
    BATCHES,
    RETINANET,
    SEMFPN,
    TWO_EPOCHS,
    built_runner,
    mistake,
    prepared,
    run,
    training_argv,
)


def test_killed_runs_end_as_if_nothing_had_happened():
    out = in_a_process('--kills', '2', timeout=600)
    assert '2 of 2 ended equal' in out


def assert_equal_runs(first, second):
    assert not difference(state(first), state(second))


class At(Hook):
    """Does something after iteration `when`, counted from 1, or in a validation after it."""

    priority = 'HIGHEST'

    def __init__(self, when, act, validating=False):
        self.when, self.act, self.validating = when, act, validating

    def after_train_iter(self, runner, *_, **__):
        if not self.validating and runner.iter + 1 == self.when:
            self.act(runner)

    def after_val_iter(self, runner, *_, **__):
        if self.validating and runner.iter == self.when:
            self.act(runner)


def interrupted(running, number):
    """Train until signal `number` ends it; returns the exit status."""
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        train(running)
    assert signal.getsignal(number) is before
    return end.value.code


def train(running):
    """As `effvim train` does: signal handlers are restored, however it ends."""
    with closing(running):
        running.train()


@pytest.mark.parametrize(
    'number, validating', [(signal.SIGINT, False), (signal.SIGTERM, True)], ids=str
)
def test_signals_finish_the_iteration_save_and_end(
    number, validating, whole, root, tmp_path, capfd
):
    """In the middle of an epoch, and in a validation for which there is no checkpoint yet."""
    done = BATCHES if validating else 3
    more = [*TWO_EPOCHS, 'default_hooks.checkpoint.interval=2'] if validating else TWO_EPOCHS
    running = prepared(root, tmp_path, '--ema', more=more)
    running.register_hook(At(done, lambda _: os.kill(os.getpid(), number), validating))
    assert interrupted(running, number) == 128 + number
    assert f'{number.name}: stopped after iteration {done}' in capfd.readouterr().err
    assert checkpoint.read(checkpoint.find_latest(tmp_path))['meta']['iter'] == done
    if not validating:  # killing runs says the rest
        return
    resumed = run(root, tmp_path, '--ema', '--resume', more=more)
    assert_equal_runs(resumed, whole[1])


def test_the_second_signal_ends_at_once(tmp_path):
    code = f"""
import logging, os, signal
from types import SimpleNamespace
from mmengine.logging import MessageHub
from effvim.engine.hooks import EffViMCheckpointHook
hook = EffViMCheckpointHook(interval=1, backend_args=dict(backend='local'))
hook.before_train(SimpleNamespace(work_dir={str(tmp_path)!r}, iter=0, logger=logging.getLogger(),
                                  message_hub=MessageHub('b')))
os.kill(os.getpid(), signal.SIGTERM)
print('still here', flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print('too late', flush=True)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert 'still here' in done.stdout and 'too late' not in done.stdout
    assert 'send it again to end at once' in done.stderr


def test_killed_in_the_last_validation(whole, root, tmp_path, capsys):
    """It is made up for; then there is nothing left to do."""
    running = prepared(root, tmp_path, '--ema', more=TWO_EPOCHS)
    running.register_hook(At(2 * BATCHES, lambda _: sys.exit(9), validating=True))
    assert interrupted(running, signal.SIGTERM) == 9
    assert_equal_runs(run(root, tmp_path, '--resume', more=TWO_EPOCHS), whole[1])
    assert {p.name for p in tmp_path.glob('best*')} == {p.name for p in whole[0].glob('best*')}
    capsys.readouterr()
    assert 'max_epochs' in mistake(
        capsys, 'train', training_argv(root, tmp_path, '--resume', more=TWO_EPOCHS)
    )


def test_ended_before_the_first_checkpoint(root, tmp_path, capsys):
    (tmp_path / lock.NAME).touch()
    cfg, _ = prepared_training(training_argv(root, tmp_path, '--resume'))
    assert not cfg.resume and 'starting anew' in capsys.readouterr().out


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    """E.g. Lustre as it is mounted by default."""
    fcntl = pytest.importorskip('fcntl')

    def lockf(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, 'lockf', lockf)
    with lock.held(tmp_path):
        assert 'cannot be locked' in capsys.readouterr().err
    monkeypatch.undo()
    with lock.held(tmp_path):
        assert 'locked' not in capsys.readouterr().err


def test_number_of_workers_changes_nothing(whole, root, tmp_path, monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: range(4), raising=False)
    more = [*TWO_EPOCHS, 'train_dataloader.num_workers=3', 'val_dataloader.num_workers=1']
    assert_equal_runs(run(root, tmp_path, '--ema', more=more), whole[1])


def seen(batches):
    return [
        (sample.img_id if 'img_id' in sample else sample.img_path, image)
        for batch in batches
        for image, sample in zip(batch['inputs'], batch['data_samples'])
    ]


def same(first, second):
    return len(first) == len(second) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(first, second)
    )


def test_a_stream_continues_where_it_was_without_reading_what_went_before(
    small_ade, tmp_path, monkeypatch
):
    running = built_runner(
        [
            SEMFPN,
            '--from-scratch',
            '--data-root',
            str(small_ade),
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            'train_dataloader.batch_size=2',
            'train_dataloader.num_workers=0',
            'train_dataloader.dataset.pipeline.2.scale=(256,64)',
            'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
            'train_dataloader.dataset.img_suffix=.bmp',
            'train_dataloader.dataset.seg_map_suffix=.bmp',
            'val_dataloader.dataset.img_suffix=.bmp',
            'val_dataloader.dataset.seg_map_suffix=.bmp',
        ]
    )

    def batches(skip, number, workers=0):
        data = {**running._train_dataloader, 'num_workers': workers, 'persistent_workers': False}
        loop = IterBasedTrainLoop(running, data, max_iters=99)
        loop.dataloader_iterator.skip_iter(skip)
        return seen([next(loop.dataloader_iterator) for _ in range(number)])

    running.train_loop  # noqa: B018  is built
    whole = batches(0, 9)  # more than two passes over seven images
    assert same(whole, batches(0, 9, workers=2)) and same(whole[12:], batches(6, 3, workers=2))
    once, again = whole[:7], dict(whole[7:14])
    assert {path for path, _ in once} == again.keys()
    assert not any(torch.equal(image, again[path]) for path, image in once)  # other noise

    kind, read = type(running.train_dataloader.dataset.dataset), []
    load = kind.__getitem__
    monkeypatch.setattr(kind, '__getitem__', lambda self, i: read.append(i) or load(self, i))
    assert same(whole[12:], batches(6, 3)) and len(read) == 6


def test_images_leave_the_models_random_numbers_alone(root, tmp_path):
    running = prepared(root, tmp_path, more=TWO_EPOCHS)
    before = random_states()
    list(running.train_dataloader)
    assert not difference(before, random_states())


def test_mmdets_hook_changes_the_pipeline_that_workers_run(root, tmp_path):
    """Mosaics end with the switch; broken images are still named after it."""
    running = built_runner(
        [
            str(ROOT / 'configs/rtmdet_effvim_m1.py'),
            '--from-scratch',
            '--data-root',
            str(root),
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            'train_dataloader.num_workers=1',
            'train_dataloader.batch_size=2',
        ]
    )
    running._train_loop = running.build_train_loop(running._train_loop)
    loader = running.train_dataloader

    def steps(of):
        return [type(t).__name__ for t in of.pipeline.transforms]

    assert 'CachedMosaic' in steps(loader.dataset.dataset)
    list(loader)  # workers have their copy now
    (hook,) = (hook for hook in running.hooks if type(hook).__name__ == 'PipelineSwitchHook')
    running.train_loop._epoch = 280
    hook.before_train_epoch(running)
    assert steps(loader.dataset.dataset) == steps(loader.dataset)
    assert 'CachedMosaic' not in steps(loader.dataset.dataset)
    image = Path(loader.dataset.get_data_info(0)['img_path'])
    content = image.read_bytes()
    image.write_bytes(content[:2000])
    with pytest.raises(UserError, match=image.name):
        list(loader)
    image.write_bytes(content)


def test_a_seed_is_drawn_and_kept(root, tmp_path, capsys):
    more = ['randomness.seed=None', 'train_cfg.max_epochs=2']
    running = prepared(root, tmp_path, more=more)
    running.register_hook(At(2, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    interrupted(running, signal.SIGTERM)
    seed = checkpoint.read(tmp_path / 'iter_2.pth')['meta']['seed']
    assert seed == running.seed != prepared(root, tmp_path / 'other', more=more).seed
    for resumed in (
        prepared(root, tmp_path, '--resume'),
        prepared(root, tmp_path / 'given', '--seed', seed),
    ):
        assert resumed.seed == resumed.train_dataloader.batch_sampler.sampler.seed == seed
    for flags, options in ((['--seed', seed + 1], []), ([], [f'randomness.seed={seed + 1}'])):
        assert (
            run_command('train', training_argv(root, tmp_path, '--resume', *flags, more=options))
            == 2
        )
        assert f'was trained with seed {seed}' in capsys.readouterr().err


def test_in_the_middle_of_an_epoch_of_other_batches(root, tmp_path, capsys):
    running = prepared(root, tmp_path)
    running.register_hook(At(2, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    interrupted(running, signal.SIGTERM)
    assert (
        run_command(
            'train',
            training_argv(root, tmp_path, '--resume', more=['train_dataloader.batch_size=2']),
        )
        == 2
    )
    assert f'epoch of {BATCHES} batches, now one has 3' in capsys.readouterr().err


# ---- files


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def test_every_flipped_byte_is_noticed(written):
    content = written.read_bytes()
    chance = random.Random(0)
    places = [chance.randrange(len(content)) for _ in range(100)]
    places += range(len(content) - 120, len(content))  # the hash itself and what says where it is
    for place in places:
        flip(written, place)
        with pytest.raises(ValueError, match=f'{written.name} is (corrupt|(truncated, )?damaged)'):
            checkpoint.read(written)
        flip(written, place)
    assert written.read_bytes() == content and checkpoint.read(written)


def test_a_corrupt_checkpoint_is_refused_and_the_previous_one_used(whole, root, tmp_path, capsys):
    for path in whole[0].glob('epoch_*.pth'):
        shutil.copy2(path, tmp_path)
    newest, before = tmp_path / 'epoch_2.pth', tmp_path / 'epoch_1.pth'
    flip(newest, newest.stat().st_size // 2)
    message = mistake(capsys, 'train', training_argv(root, tmp_path, '--resume', newest))
    assert f'{newest} is corrupt' in message
    resumed = run(root, tmp_path, '--resume', more=TWO_EPOCHS)
    captured = capsys.readouterr()
    assert f'warning: {newest} is corrupt' in captured.err and str(before) in captured.err
    assert f'loaded {before} (verified)' in captured.out
    assert_equal_runs(resumed, whole[1])


def test_a_config_that_does_not_fit_does_not_replace_that_of_the_checkpoint(
    whole, root, tmp_path, capsys
):
    for name in ('epoch_1.pth', Path(RETINANET).name):
        shutil.copy2(whole[0] / name, tmp_path)
    copy = tmp_path / Path(RETINANET).name
    before = copy.read_bytes()
    other = [*TWO_EPOCHS, 'model.bbox_head.stacked_convs=1']
    assert run_command('train', training_argv(root, tmp_path, '--resume', more=other)) == 2
    assert 'does not fit' in capsys.readouterr().err and copy.read_bytes() == before
    run(root, tmp_path, '--resume', more=[*TWO_EPOCHS, 'default_hooks.logger.interval=7'])
    assert 'interval=7' in copy.read_text()


def test_files_of_other_programs_are_called_unverified(whole, tmp_path, capsys):
    torch.save(checkpoint.read(whole[0] / 'epoch_1.pth'), tmp_path / 'theirs.pth')
    for path, word in ((tmp_path / 'theirs.pth', 'unverified'), (whole[0] / 'epoch_1.pth', 'ver')):
        assert run_command('test', [RETINANET, str(path), '--work-dir', str(tmp_path)]) == 0
        assert f'loaded {path} ({word}' in capsys.readouterr().out


def test_what_the_disk_changed_does_not_count_as_written(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')
    sync = os.fsync

    def wrong(handle):
        sync(handle)
        os.pwrite(handle, b'?', 1000)

    monkeypatch.setattr('os.fsync', wrong)
    with pytest.raises(OSError, match='does not hold what was written'):
        write_atomic(path, b'new' * 1000)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_what_was_there(whole, root, tmp_path, capsys, monkeypatch):
    """The second epoch's checkpoint does not fit any more."""
    shutil.copy2(whole[0] / 'epoch_1.pth', tmp_path)
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    sync = os.fsync

    def full(handle):
        if '.epoch_2.pth.' in os.readlink(f'/proc/self/fd/{handle}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr('os.fsync', full)
    assert run_command('train', training_argv(root, tmp_path, '--resume', more=TWO_EPOCHS)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert 'No space left' in line and '--resume' in line
    assert [path.name for path in tmp_path.rglob('*.pth*')] == ['epoch_1.pth']
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before


def test_one_run_at_a_time(root, tmp_path, capsys):
    code = f"""
import time
from pathlib import Path
from effvim.engine import lock
with lock.held(Path({str(tmp_path)!r})):
    print('held', flush=True)
    time.sleep(99)
"""
    half = tmp_path / '.epoch_1.pth.abcdefgh'
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'held\n'
        half.touch()  # the other may just be writing it
        message = mistake(capsys, 'train', training_argv(root, tmp_path))
        assert f'process {other.pid} on ' in message and str(tmp_path) in message
        assert half.exists()
        other.kill()
    with lock.held(tmp_path):
        assert not half.exists()


# ---- numbers that are not finite


class Poison(Hook):
    """Makes the images of iteration `when` infinitely bright."""

    priority = 'LOWEST'

    def __init__(self, *when):
        self.when = when

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 in self.when:
            data_batch['inputs'] = [image * torch.inf for image in data_batch['inputs']]


def poisoned(root, folder, *when, more=(), flags=()):
    running = prepared(root, folder, *flags, more=more)
    running.register_hook(Poison(*when))
    return running


def test_a_loss_that_is_not_finite_ends_the_run(root, tmp_path, capsys):
    running = poisoned(root, tmp_path, 3)
    states = []
    running.register_hook(
        At(2, lambda r: states.append({n: v.clone() for n, v in r.model.state_dict().items()}))
    )
    with pytest.raises(ValueError) as error:
        train(running)
    saved = checkpoint.read(tmp_path / 'bad_batch.pth')
    name = Path(saved['images'][0]).name
    for part in ('iteration 3: the loss', 'loss_cls nan', name, str(tmp_path / 'bad_batch.pth')):
        assert part in str(error.value)
    assert saved['iteration'] == 3 and np.isnan(saved['losses']['loss_cls'])
    assert torch.isinf(saved['inputs'][0]).any() and (root / 'train2017' / name).is_file()
    parameters = dict(running.model.named_parameters())
    assert saved['affected'] and set(saved['affected']) <= parameters.keys()
    for name, value in parameters.items():  # as they were after iteration 2
        assert torch.equal(value, states[0][name]) and value.isfinite().all()


def test_a_gradient_that_is_not_finite_ends_the_run(root, tmp_path):
    running = prepared(root, tmp_path)
    layer = running.model.neck.lateral_convs[1].conv

    def spoil(_):
        layer.weight.register_hook(lambda grad: grad * torch.nan)

    running.register_hook(At(2, spoil))
    with pytest.raises(ValueError, match='iteration 3: the gradient is not finite') as error:
        train(running)
    assert 'first affected neck.lateral_convs.1.conv.weight (1 parameters)' in str(error.value)


def test_bad_batches_are_skipped_as_if_they_had_not_been_drawn(root, tmp_path, capsys):
    flags = dict(
        flags=['--skip-bad-batches', '2'],
        more=['optim_wrapper.clip_grad=None', 'default_hooks.logger.interval=1'],
    )
    running = poisoned(root, tmp_path / 'a', 2, 4, **flags)
    reference = prepared(root, tmp_path / 'b', more=flags['more'])
    running._init_model_weights()
    reference.model.load_state_dict(running.model.state_dict())
    running._init_model_weights = lambda: None
    running.train()
    assert '2 bad batches were skipped' in capsys.readouterr().out
    (log,) = (tmp_path / 'a').glob('*/vis_data/scalars.json')
    assert 'NaN' not in log.read_text() and len(list(map(json.loads, log.open()))) >= BATCHES

    model = reference.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.999), weight_decay=0.05)
    for number, batch in enumerate(reference.train_dataloader, 1):
        if number in (2, 4):
            continue
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        optimiser.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimiser.step()
    for name, value in running.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_too_many_bad_batches(root, tmp_path):
    running = poisoned(root, tmp_path, 2, 4, 5, flags=['--skip-bad-batches', '2'])
    with pytest.raises(ValueError, match=r'iteration 5: .* \(2 were skipped\)'):
        train(running)


def test_a_bad_batch_in_a_group(root, tmp_path):
    """The others of its group make the step."""
    running = poisoned(
        root,
        tmp_path,
        2,
        flags=['--skip-bad-batches', '1'],
        more=['optim_wrapper.accumulative_counts=2'],
    )
    running.train()
    assert {int(s['step']) for s in running.optim_wrapper.state_dict()['state'].values()} == {3}


def test_skipping_counts_on_one_process(root, tmp_path, capsys):
    assert '--skip-bad-batches' in mistake(
        capsys, 'train', training_argv(root, tmp_path, '--skip-bad-batches', -1)
    )
