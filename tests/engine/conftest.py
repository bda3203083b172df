"""Fixtures that tests of training share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from backbone import EfficientViM
from backbone.openmmlab import ops
from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from effvim.engine.hooks import EffViMProgressHook, progress_hook
from tests.helpers.kill_and_resume import draw
from tests.helpers.paths import ROOT
from tests.helpers.real_runs import SMALL_MASK_RCNN, SMALL_RETINANET, SMALL_SEMFPN
from tests.helpers.runs import call
from tests.helpers.training import (
    MASK_RCNN,
    RETINANET,
    SEMFPN,
    TWO_EPOCHS,
    Recorder,
    draw_cropped,
    prepared,
    run,
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A synthetic detection dataset of 96 × 64 pixels, see `draw_cropped`."""
    return draw_cropped(tmp_path_factory.mktemp('c') / 'coco')


@pytest.fixture(scope='module')
def trained_detector(coco_root, tmp_path_factory):
    """One epoch on the real training images, small, randomly initialised."""
    folder = tmp_path_factory.mktemp('run')
    argv = [RETINANET, '--from-scratch', '--data-root', coco_root, '--work-dir', folder]
    return folder, call('train', *argv, '--cfg-options', *SMALL_RETINANET)


@pytest.fixture(scope='module')
def standard_mask_rcnn():
    """mmdet's own Mask R-CNN."""
    import mmdet

    configs = Path(mmdet.__file__).parent / '.mim/configs'
    return Config.fromfile(configs / 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')


@pytest.fixture(scope='module')
def trained_mask_rcnn(coco_root, tmp_path_factory):
    """One epoch on the real training images, small, randomly initialised."""
    folder = tmp_path_factory.mktemp('run')
    argv = [MASK_RCNN, '--from-scratch', '--data-root', coco_root, '--work-dir', folder]
    return folder, call('train', *argv, '--cfg-options', *SMALL_MASK_RCNN)


@pytest.fixture(scope='module')
def trained_segmentor(ade_root, tmp_path_factory):
    """The real command: four iterations on the real training images, small, from scratch."""
    folder = tmp_path_factory.mktemp('run')
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools/train.py'),
            SEMFPN,
            '--from-scratch',
            '--data-root',
            str(ade_root),
            '--work-dir',
            str(folder),
            '--cfg-options',
            *SMALL_SEMFPN,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == '', done.stderr[-3000:]
    return folder, done.stdout


@pytest.fixture(scope='module')
def telling(trained_segmentor, ade_root):
    """The checkpoint with a last layer that tells the regions of an image apart."""
    ops.install()  # mmsegmentation 1.2 asks for them
    from mmseg.apis import inference_model, init_model

    folder, _ = trained_segmentor
    model = init_model(str(folder / 'semfpn_effvim_m1.py'), device='cpu')
    model.load_state_dict(checkpoint.read(folder / 'iter_4.pth')['state_dict'])
    seen = []
    model.decode_head.conv_seg.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inference_model(model, str(ade_root / 'images/validation/ADE_val_00000001.jpg'))
    usual, spread = seen[0].mean((0, 2, 3)), seen[0].std((0, 2, 3))
    weight = torch.randn(150, 128) / (spread + 1e-6)
    bias = -weight @ usual
    bias[30:] -= 1e6  # the commoner classes only
    content = torch.load(folder / 'iter_4.pth', weights_only=False)
    content['state_dict']['decode_head.conv_seg.weight'] = weight[..., None, None]
    content['state_dict']['decode_head.conv_seg.bias'] = bias
    torch.save(content, folder / 'telling.pth')
    return folder / 'telling.pth'


@pytest.fixture
def cpu_with_bfloat16(monkeypatch):
    """Let the CPU pass for one that computes in bfloat16."""
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: True)


@pytest.fixture(scope='module')
def whole(root, tmp_path_factory):
    """Two random epochs that nobody disturbs."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, run(root, folder, '--ema', more=TWO_EPOCHS)


@pytest.fixture
def small_ade(tmp_path_factory):
    """A tiny synthetic dataset for segmentation."""
    return synthetic.draw_ade(tmp_path_factory.mktemp('a') / 'ade', num_train=7, num_val=1, size=64)


@pytest.fixture
def written(whole, tmp_path):
    """A checkpoint with everything that is in one, but only its smaller tensors."""

    def small(value):
        if isinstance(value, dict):
            return {
                k: small(v)
                for k, v in value.items()
                if not isinstance(v, torch.Tensor) or v.numel() < 2000
            }
        return value

    path = tmp_path / 'epoch_1.pth'
    checkpoint.write(path, small(whole[1]))
    content = checkpoint.read(path)
    assert 'exp_avg' in content['optimizer']['state'][0] and path.stat().st_size > 100_000
    return path


@pytest.fixture(scope='module')
def plain(root, tmp_path_factory):
    """Two epochs without any convenience."""
    folder = tmp_path_factory.mktemp('plain')
    return folder, run(root, folder, more=['train_cfg.max_epochs=2'])


@pytest.fixture(scope='module')
def averaged(root, tmp_path_factory):
    """One epoch with --ema; the working directory, the checkpoint and what happened."""
    folder = tmp_path_factory.mktemp('ema')
    running = prepared(
        root, folder, '--ema', more=[f'+val_evaluator.outfile_prefix={folder}/validated']
    )
    running.register_hook(recorder := Recorder())
    running.train()
    return folder, checkpoint.read(folder / 'epoch_1.pth'), recorder


@pytest.fixture(scope='module')
def together():
    """Runs a command on several ranks, see tests/helpers/processes.py, each on one thread."""
    with subprocess.Popen(
        [sys.executable, '-m', 'tests.helpers.processes'],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    ) as server:

        def run(number, command, *argv, statuses=None, **options):
            job = dict(processes=number, command=command, argv=[str(a) for a in argv], **options)
            print(json.dumps(job), file=server.stdin, flush=True)
            done = json.loads(server.stdout.readline())
            assert done['statuses'] == (statuses or [0] * number), '\n'.join(done['outputs'])
            return done

        yield run
        server.stdin.close()


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Synthetic datasets of 64 pixels by config; for detectors with 20 training images."""
    folder = tmp_path_factory.mktemp('drawn')
    coco = synthetic.draw_coco(folder / 'more', num_train=20, num_val=2, size=64)
    return {SEMFPN: draw(folder)[SEMFPN], RETINANET: coco, MASK_RCNN: coco}


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """Backbone weights whose BN statistics are not 0 and 1."""
    path = tmp_path_factory.mktemp('weights') / 'm1.pth'
    torch.manual_seed(0)
    state = EfficientViM('m1', out_indices=(0, 1, 2)).state_dict()
    for name, value in state.items():
        if name.endswith(('running_mean', 'running_var')):
            value += torch.rand_like(value) / 2
    torch.save({'model': state}, path)
    return path


@pytest.fixture
def slurm(tmp_path):
    """What Slurm sets, and a stand-in for its command that lists the nodes."""
    command = tmp_path / 'bin/scontrol'
    command.parent.mkdir()
    command.write_text('#!/bin/sh\n[ "$*" = "show hostnames here[1-2]" ] && echo localhost\n')
    command.chmod(0o755)
    return {'SLURM_NODELIST': 'here[1-2]', 'PATH': f'{command.parent}:{os.environ["PATH"]}'}


@pytest.fixture
def progress(monkeypatch):
    """The hook that prints progress, impatient."""
    monkeypatch.setattr(progress_hook, 'SILENCE', 0.5)
    hook = EffViMProgressHook(interval=50)
    yield hook
    hook.after_run(None)
