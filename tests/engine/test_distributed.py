"""Several ranks compute what one does; if one ends, all do, and nothing is lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from backbone import UserError
from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from effvim.engine import distributed
from tests.helpers.cli import run_command
from tests.helpers.custom_data import NO_WORKERS, run
from tests.helpers.kill_and_resume import RETINANET, SEMFPN, difference, state
from tests.helpers.paths import ROOT
from tests.helpers.runs import KINDS, TEST, files

MASK_RCNN = str(ROOT / 'configs/mask_rcnn_effvim_m1.py')
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
ONE_BATCH = [
    'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
]
# AdamW makes whole steps of gradients that are only rounding errors; with a larger eps small ones.
LINEAR = '+optim_wrapper.optimizer.eps=0.001'
DETECTION = [
    *ONE_BATCH,
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'train_cfg.max_epochs=1',
    'param_scheduler.0.start_factor=1.0',
    LINEAR,
    'train_dataloader.dataset.filter_cfg=None',
]  # keeps an image without objects
# Statistics over both images would need SyncBN, which CPUs lack: group norm instead.
SEGMENTATION = [
    *ONE_BATCH,
    'train_dataloader.dataset.pipeline.2.scale=(256,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(256,64)',
    'train_cfg.max_iters=10',
    'train_cfg.val_interval=10',
    'default_hooks.checkpoint.interval=10',
    'model.decode_head.norm_cfg.type=GN',
    '+model.decode_head.norm_cfg.num_groups=32',
    LINEAR,
    'model.decode_head.dropout_ratio=0.0',  # each rank would draw its own numbers
]
# All negative proposals count, where the recipe draws some of them.
ALL = [
    'model.train_cfg.rpn.sampler.num=100000',
    'model.train_cfg.rcnn.sampler.num=2000',
    'model.train_cfg.rpn_proposal.max_per_img=50',
    *TEST['mask_rcnn'],
]


def training(config, roots, pretrained, folder, *options, flags=()):
    """The command line of a run of the recipe, whose BN statistics are frozen."""
    more = SEGMENTATION if config == SEMFPN else DETECTION
    return [
        config,
        '--data-root',
        roots[config],
        '--work-dir',
        folder,
        *flags,
        '--cfg-options',
        f'model.backbone.init_cfg.checkpoint={pretrained}',
        *more,
        *options,
    ]


def last(folder):
    return checkpoint.read(checkpoint.find_latest(Path(folder)))


# ---- the same results


@pytest.mark.parametrize('kind', KINDS)
def test_metrics_do_not_depend_on_the_number_of_ranks(kind, together, run_of, tmp_path):
    """Seven images: two ranks see one twice, three see two twice."""
    trained = run_of(kind)
    root = (synthetic.draw_ade if kind == 'semfpn' else synthetic.draw_coco)(
        tmp_path / 'data', num_train=1, num_val=7, size=96
    )
    metrics = {}
    for number in (1, 2, 3):
        out = tmp_path / str(number)
        show = ['--show-dir', out / 'shown'] if kind == 'retinanet' else []
        together(
            number,
            'test',
            trained.config,
            trained.checkpoint,
            '--data-root',
            root,
            '--out',
            out / 'metrics.json',
            '--work-dir',
            out,
            *show,
        )
        metrics[number] = json.loads((out / 'metrics.json').read_text())
        assert len(files(out / 'shown')) == 7 * len(show) // 2
    assert max(metrics[1].values()) > 0
    for number in (2, 3):
        assert metrics[number] == pytest.approx(metrics[1], rel=0, abs=1e-9)
        assert files(tmp_path / f'{number}/shown').keys() == files(tmp_path / '1/shown').keys()


def assert_equal_weights(first, second, pretrained):
    """Equal to 1e-6, and no longer what training began with."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).abs().max() <= 1e-6, name
    began = torch.load(pretrained, weights_only=True)['model']
    moved = [
        name
        for name, value in began.items()
        if (value - first[f'backbone.{name}']).abs().max() > 1e-5
    ]
    assert len(moved) > 100


def test_a_segmentor_on_two_ranks_equals_one_of_the_same_total_batch(
    together, roots, pretrained, tmp_path
):
    """Ten steps."""
    weights = {}
    for number, size in ((1, 2), (2, 1)):
        folder = tmp_path / str(number)
        together(
            number,
            'train',
            *training(
                SEMFPN,
                roots,
                pretrained,
                folder,
                f'train_dataloader.batch_size={size}',
                'optim_wrapper.optimizer.lr=0.001',
            ),
        )
        weights[number] = last(folder)['state_dict']
    assert_equal_weights(weights[1], weights[2], pretrained)


def test_own_data_on_two_ranks_equals_one_of_the_same_total_batch(
    together, regions, pretrained, tmp_path
):
    """`--data` shares its batch of four among the ranks; the first one evaluates at the end."""
    assert run('split regions own') == 0
    weights, metrics = {}, {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        done = together(
            number,
            'train',
            *(SEMFPN, '--data', tmp_path / 'own', '--epochs', 2, '--work-dir', folder),
            '--cfg-options',
            f'model.backbone.init_cfg.checkpoint={pretrained}',
            'optim_wrapper.optimizer.lr=0.003',
            *SEGMENTATION[-4:],
            *NO_WORKERS,
        )
        text = 'batch size 2 on each of 2 processes' if number == 2 else 'batch size 4'
        assert ''.join(done['outputs']).count(f'{text}, learning rate') == 1
        weights[number] = last(folder)['state_dict']
        metrics[number] = json.loads((folder / 'metrics.json').read_text())
    assert_equal_weights(weights[1], weights[2], pretrained)
    assert metrics[1] == pytest.approx(metrics[2], abs=1e-3)


@pytest.mark.parametrize(
    'config',
    [RETINANET, pytest.param(MASK_RCNN, marks=pytest.mark.slow)],
    ids=['retinanet', 'mask_rcnn'],
)
def test_a_detector_on_two_ranks_equals_accumulated_gradients(
    config, together, roots, pretrained, tmp_path
):
    """Ten steps on the same batches: losses are normalised on each rank, hence in each batch."""
    contents = {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        together(
            number,
            'train',
            *training(
                config,
                roots,
                pretrained,
                folder,
                f'optim_wrapper.accumulative_counts={3 - number}',
                *(ALL if config == MASK_RCNN else []),
            ),
        )
        contents[number] = last(folder)
        steps = {int(s['step']) for s in contents[number]['optimizer']['state'].values()}
        assert steps == {10}
    assert_equal_weights(contents[1]['state_dict'], contents[2]['state_dict'], pretrained)


def test_images_shared_among_ranks_are_those_of_one(together, run_of, tmp_path):
    """Two of seven are broken, on different ranks."""
    trained = run_of('mask_rcnn')
    root = synthetic.draw_coco(tmp_path / 'data', num_train=1, num_val=7, size=96)
    images = sorted((root / 'val2017').iterdir())
    for broken in (images[1], images[4]):
        broken.write_bytes(broken.read_bytes()[:99])
    written = {}
    for number in (1, 2, 3):
        done = together(
            number,
            'infer',
            trained.config,
            trained.checkpoint,
            root / 'val2017',
            '--out',
            tmp_path / str(number),
            '--json',
            '--score-thr',
            0,
            statuses=[1] * number,
        )
        output = ''.join(done['outputs'])
        assert '5 of 7 images done' in output and '2 could not be read' in output
        written[number] = {
            name: path.read_bytes() for name, path in files(tmp_path / str(number)).items()
        }
    assert len(json.loads(written[1]['detections.segm.json'])) > 20
    assert written[1] == written[2] == written[3]


# ---- signals


# each rank draws proposals from its own random numbers
DRAWN = [*TEST['mask_rcnn'], 'model.train_cfg.rcnn.sampler.num=16']


@pytest.mark.parametrize(
    'number, rank, config',
    [
        (signal.SIGTERM, 1, RETINANET),
        pytest.param(signal.SIGINT, 0, MASK_RCNN, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_signal_to_one_rank_ends_all_after_the_same_iteration(
    number, rank, config, together, roots, pretrained, slurm, tmp_path
):
    """In the middle of an epoch, under Slurm; the resumed run ends as if nothing had happened."""

    def command(name, *flags):
        return training(
            config,
            roots,
            pretrained,
            tmp_path / name,
            *(DRAWN if config == MASK_RCNN else []),
            flags=flags,
        )

    together(2, 'train', *command('whole'))
    done = together(
        2,
        'train',
        *command('halves'),
        statuses=[128 + number] * 2,
        signals={rank: ['train', 3, number]},
        launcher='slurm',
        environment=slurm,
    )
    assert f'{number.name}: stopped after iteration 3' in done['outputs'][0]
    assert 'Error' not in ''.join(done['outputs'])
    assert last(tmp_path / 'halves')['meta']['iter'] == 3
    resumed = together(2, 'train', *command('halves', '--resume'))
    assert 'epoch 1/1  10/10' in resumed['outputs'][0]
    first, second = last(tmp_path / 'whole'), last(tmp_path / 'halves')
    assert not difference(state(first), state(second))
    others = [content['random_states_of_others'] for content in (first, second)]
    assert not difference(*others)
    drawn_alike = not difference(others[0][0], first['random_states'])
    assert drawn_alike == (config == RETINANET)


@pytest.mark.slow
def test_accumulated_gradients_of_all_ranks_are_kept(together, roots, pretrained, tmp_path):
    """Stopped between the two batches of a step, then resumed."""

    def command(name, *flags):
        return training(
            RETINANET,
            roots,
            pretrained,
            tmp_path / name,
            'optim_wrapper.accumulative_counts=2',
            'optim_wrapper.optimizer.lr=0.0001',
            flags=flags,
        )

    together(2, 'train', *command('whole'))
    together(2, 'train', *command('halves'), signals={1: ['train', 3, 15]}, statuses=[143] * 2)
    assert last(tmp_path / 'halves')['gradients']
    together(2, 'train', *command('halves', '--resume'))
    first, second = (last(tmp_path / name)['state_dict'] for name in ('whole', 'halves'))
    assert_equal_weights(first, second, pretrained)


def test_a_signal_in_a_validation_ends_all(together, roots, pretrained, tmp_path):
    done = together(
        2,
        'train',
        *training(RETINANET, roots, pretrained, tmp_path),
        signals={1: ['val', 1, signal.SIGTERM]},
        statuses=[143] * 2,
    )
    assert 'stopped after iteration 10' in done['outputs'][0]
    assert last(tmp_path)['meta']['iter'] == 10


# ---- a rank that fails, without a launcher that would see to it

ENDED = r'^error: rank (\d): another rank has ended: '


@pytest.mark.parametrize('dead', [0, 1])
def test_the_death_of_one_rank_ends_training(dead, together, roots, pretrained, tmp_path):
    statuses = [2, 2, 2]
    statuses[dead] = -9
    done = together(
        3,
        'train',
        *training(RETINANET, roots, pretrained, tmp_path),
        signals={dead: ['train', 2, signal.SIGKILL]},
        statuses=statuses,
    )
    assert_survivors_say_so(dead, done)


def test_the_death_of_one_rank_ends_an_evaluation(together, run_of, tmp_path):
    """The other one waits for its results."""
    trained = run_of('retinanet')
    done = together(
        2,
        'test',
        trained.config,
        trained.checkpoint,
        '--work-dir',
        tmp_path,
        signals={1: ['test', 3, signal.SIGKILL]},
        statuses=[2, -9],
    )
    assert_survivors_say_so(1, done)


def assert_survivors_say_so(dead, done):
    """Each surviving rank has ended in time, with one line and no traceback."""
    for rank, output in enumerate(done['outputs']):
        lines = re.findall(ENDED, output, re.MULTILINE)
        assert lines == ([] if rank == dead else [str(rank)]), output
        assert output.count('error:') == len(lines) and 'Traceback' not in output
    assert done['seconds'] < 60


def test_a_mistake_on_one_rank_ends_all(together, run_of, tmp_path):
    """A broken image: its rank names it, the other one refers to that message."""
    trained = run_of('retinanet')
    root = synthetic.draw_coco(tmp_path / 'data', num_train=1, num_val=4, size=96)
    broken = sorted((root / 'val2017').iterdir())[1]
    broken.write_bytes(b'')
    done = together(
        2,
        'test',
        trained.config,
        trained.checkpoint,
        '--data-root',
        root,
        '--work-dir',
        tmp_path,
        statuses=[2, 2],
    )
    first, second = (re.findall('^error: .*$', out, re.MULTILINE) for out in done['outputs'])
    assert len(first) == len(second) == 1
    assert broken.name in second[0] and re.match(ENDED, first[0]) and 'its own message' in first[0]
    assert done['seconds'] < 60


def test_a_rank_that_hangs_is_noticed_after_the_time_out():
    """The others end with one line; torch's NCCL ends the process itself."""
    code = """
import os, time, torch
from backbone import UserError
from effvim.engine import distributed
distributed.read_environment('pytorch')
try:
    with distributed.joined('pytorch', timeout=3):
        if os.environ['RANK'] == '1':
            time.sleep(20)
        torch.distributed.barrier()
except UserError as error:
    print(error)
"""
    with socket.create_server(('', 0)) as free:
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **ENVIRONMENT,
                'RANK': str(rank),
                'LOCAL_RANK': str(rank),
                'WORLD_SIZE': '2',
                'MASTER_ADDR': 'localhost',
                'MASTER_PORT': port,
            },
        )
        for rank in range(2)
    ]
    first, second = (process.communicate()[0] for process in ranks)
    assert first.startswith('rank 0: another rank has not answered for 3 s (env_cfg.dist_cfg.time')
    assert second.startswith('rank 1: another rank has ended')


def test_errors_of_others_keep_their_traceback():
    with pytest.raises(RuntimeError, match='timed out'), faked_rank():
        raise RuntimeError('DataLoader timed out after 5 seconds')


@contextlib.contextmanager
def faked_rank():
    """One rank alone."""
    with socket.create_server(('', 0)) as free:
        port = str(free.getsockname()[1])
    values = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': 'localhost'}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**values, 'MASTER_PORT': port}.items():
            patch.setenv(name, value)
        try:
            with distributed.joined('pytorch'):
                yield
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


# ---- torchrun


def torchrun(roots, pretrained, folder):
    """Start a run that would take long; returns it when it has done some iterations."""
    running = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc-per-node=2',
            str(ROOT / 'tools/train.py'),
            *map(
                str,
                training(
                    RETINANET,
                    roots,
                    pretrained,
                    folder,
                    'train_cfg.max_epochs=999',
                    'train_cfg.val_interval=999',
                    'default_hooks.checkpoint.interval=999',
                    'default_hooks.logger.interval=1',
                ),
            ),
            '--launcher',
            'pytorch',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    for line in running.stdout:
        if 'epoch 1/999  3/' in line:
            return running
    raise AssertionError(running.stderr.read())


def rank_of(process):
    """The rank that torchrun gave to a process."""
    variables = Path(f'/proc/{process}/environ').read_bytes().split(b'\0')
    return int(next(v for v in variables if v.startswith(b'RANK='))[5:])


def workers(running):
    """Ids of the processes of `running`, by rank."""
    children = Path(f'/proc/{running.pid}/task/{running.pid}/children').read_text().split()
    return {rank_of(child): int(child) for child in children}


def test_torchrun_ends_all_ranks_and_names_the_dead_one(roots, pretrained, tmp_path):
    with torchrun(roots, pretrained, tmp_path) as running:
        os.kill(workers(running)[1], signal.SIGKILL)
        began = time.monotonic()
        _, errors = running.communicate()
        assert running.returncode and time.monotonic() - began < 60
    cause = errors[errors.index('Root Cause') :]
    assert re.search(r'rank +: 1 .*exitcode +: -9', cause, re.DOTALL), errors
    assert errors.count('Traceback') == 1  # torchrun's own


def test_torchrun_names_the_rank_of_a_mistake(roots, pretrained, tmp_path):
    """An image breaks while training reads it."""
    root = Path(shutil.copytree(roots[RETINANET], tmp_path / 'data'))
    with torchrun({RETINANET: root}, pretrained, tmp_path / 'run') as running:
        for image in (root / 'train2017').iterdir():
            image.write_bytes(b'')
        began = time.monotonic()
        _, errors = running.communicate()
        assert running.returncode and time.monotonic() - began < 60
    assert re.search('^error: image .* cannot be read', errors, re.MULTILINE)
    assert re.search(r'exitcode +: 2 ', errors[errors.index('Root Cause') :]), errors


def test_a_signal_to_torchrun_and_its_processes_saves_and_ends(roots, pretrained, tmp_path):
    """As Slurm sends it. torchrun passes it on: each rank receives two."""
    with torchrun(roots, pretrained, tmp_path) as running:
        for process in (*workers(running).values(), running.pid):
            os.kill(process, signal.SIGTERM)
        _, errors = running.communicate()
    done = int(re.search(r'SIGTERM: stopped after iteration (\d+); --resume', errors)[1])
    content = last(tmp_path)
    assert content['meta']['iter'] == done
    assert checkpoint.describe(content)['position']['batch'] == done % 10
    assert not re.search('^error:', errors, re.MULTILINE)


# ---- how it is started


def mistake(capsys, *flags):
    assert run_command('train', [RETINANET, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_launcher_that_did_not_start_it(monkeypatch, capsys):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for launcher, start in (('pytorch', 'torchrun'), ('slurm', 'srun')):
        line = mistake(capsys, '--launcher', launcher)
        assert f'--launcher {launcher}: ' in line and start in line
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'add --launcher pytorch' in mistake(capsys)


def test_slurm_that_does_not_know_its_nodes(monkeypatch, slurm):
    monkeypatch.setenv('PATH', slurm['PATH'])
    monkeypatch.setenv('SLURM_NODELIST', 'there[1-2]')
    with pytest.raises(UserError, match=r'there\[1-2\].*MASTER_ADDR'):
        distributed.first_node()
