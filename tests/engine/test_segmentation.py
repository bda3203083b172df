"""The commands on real ADE20K images, and mmseg's own tools on our configs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT
from tests.helpers.real_runs import SMALL_SEMFPN, call
from tests.helpers.training import SEMFPN


def mean_iou(predicted_maps, true_maps, number):
    """mIoU, mAcc, aAcc in percent over labels 1 … number; 0 in the ground truth is ignored."""
    pairs = np.zeros((number + 1, number + 1), np.int64)  # ground truth, prediction
    for p, t in zip(predicted_maps, true_maps):
        np.add.at(pairs, (t[t > 0], p[t > 0]), 1)
    right, true, predicted = np.diag(pairs)[1:], pairs.sum(1)[1:], pairs.sum(0)[1:]
    seen = true + predicted > 0
    iou = right[seen] / (true + predicted - right)[seen]
    acc = right[true > 0] / true[true > 0]
    return [100 * iou.mean(), 100 * acc.mean(), 100 * right.sum() / true.sum()]


def test_what_a_person_sees(trained_segmentor):
    folder, out = trained_segmentor
    assert out.startswith(
        'semfpn_effvim_m1.py (from_scratch): 3 training images, 6 validation images, '
        '150 classes: wall, building, sky'
    )
    assert 'iteration  2/4  loss ' in out and 'iteration  4/4  loss ' in out
    assert 'iteration 2  mIoU ' in out and 'validation after iteration 4' in out
    assert 'epoch' not in out and 'IoU.wall' not in out
    for name in ('curves.png', 'images', 'iter_4.pth'):
        assert str(folder / name) in out and (folder / name).exists()
    images = sorted((folder / 'images').glob('*.png'))
    assert len(images) == 6
    for path in (folder / 'curves.png', *images):
        with Image.open(path) as image:
            assert image.width > 900


def test_checkpoint_knows_what_it_is(trained_segmentor, ade_root):
    content = checkpoint.read(trained_segmentor[0] / 'iter_4.pth')
    described = checkpoint.describe(content)
    assert described['config'] == 'semfpn_effvim_m1.py'
    assert described['presets'] == ['from_scratch']
    assert (
        described['data_root'] == str(ade_root) and described['options']['train_cfg.max_iters'] == 4
    )
    assert described['position'] == {'batch': 4} and content['meta']['iter'] == 4
    classes = checkpoint.classes_of(content)
    names = (ade_root / 'objectInfo150.txt').read_text().splitlines()[1:]
    assert len(classes) == len(names) == 150
    agree = [c == n.split('\t')[-1].split(',')[0].strip() for c, n in zip(classes, names)]
    assert sum(agree) > 140  # mmseg shortens a few of the dataset's own names


def test_evaluation_needs_no_flags_and_equals_numpy(telling, ade_root, tmp_path):
    metrics = tmp_path / 'metrics.json'
    call(
        'test',
        SEMFPN,
        telling,
        '--out',
        metrics,
        '--work-dir',
        tmp_path,
        '--show-dir',
        tmp_path / 'shown',
        '--cfg-options',
        f'+test_evaluator.output_dir={tmp_path}/predicted',
    )
    numbers = json.loads(metrics.read_text())
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 6
    true_maps, predicted_maps = [], []
    for path in sorted((ade_root / 'annotations/validation').iterdir()):
        true_maps.append(np.asarray(Image.open(path)))
        predicted_maps.append(np.asarray(Image.open(tmp_path / 'predicted' / path.name)))
        assert predicted_maps[-1].shape == true_maps[-1].shape and predicted_maps[-1].min() >= 1
    expected = mean_iou(predicted_maps, true_maps, 150)
    assert len(np.unique(np.concatenate([p.ravel() for p in predicted_maps]))) >= 10
    assert min(expected) > 0.1
    for name, value in zip(('mIoU', 'mAcc', 'aAcc'), expected):
        assert abs(numbers[name] - value) <= 1e-6, name

    single = {k: v for k, v in numbers.items() if '.' in k}
    present = set(np.unique(true_maps[0])) - {0}
    assert {f'IoU.{c}' for c in ('wall', 'floor', 'bed ', 'sky')} & single.keys()
    assert all(k.split('.')[0] in ('IoU', 'Acc') and 0 <= v <= 100 for k, v in single.items())
    assert len(single) >= 2 * len(present)
    ious = [v for k, v in single.items() if k.startswith('IoU.')]
    assert abs(np.mean(ious) - expected[0]) <= 1e-6


def test_resuming_a_finished_run(trained_segmentor, tmp_path, capsys):
    status = run_command(
        'train',
        [SEMFPN, '--resume', str(trained_segmentor[0] / 'iter_4.pth'), '--work-dir', str(tmp_path)],
    )
    err = capsys.readouterr().err
    assert status == 2 and 'finished its 4 iters' in err and 'train_cfg.max_iters' in err


def test_fine_tuning_on_classes_of_ones_own(trained_segmentor, tmp_path, capsys):
    """BaseSegDataset in ADE20K's layout with names in the config; all but the class layer kept."""
    root = synthetic.draw_ade(tmp_path / 'ade', num_train=4, num_val=2)
    config = tmp_path / 'own.py'
    data = "dict(dataset=dict(type='BaseSegDataset', img_suffix='.bmp', seg_map_suffix='.bmp', "
    data += f'metainfo=dict(classes={synthetic.ADE_CLASSES})))'
    config.write_text(
        f"_base_ = '{SEMFPN}'\n"
        + ''.join(f'{loader}_dataloader = {data}\n' for loader in ('train', 'val', 'test'))
    )
    call(
        'train',
        config,
        '--from-scratch',
        '--data-root',
        root,
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL_SEMFPN,
        f'load_from={trained_segmentor[0] / "iter_4.pth"}',
        'optim_wrapper.optimizer.lr=0',
        'param_scheduler.0.eta_min=0',
        'train_cfg.max_iters=2',
    )
    out = capsys.readouterr().out
    assert '4 classes: ground, disc' in out and 'decode_head.conv_seg.weight' in out
    before = checkpoint.read(trained_segmentor[0] / 'iter_4.pth')['state_dict']
    after = checkpoint.read(tmp_path / 'run/iter_2.pth')['state_dict']
    for name, value in after.items():
        if 'conv_seg' in name:
            assert value.shape[0] == 4
        elif 'running_' not in name and not name.endswith('num_batches_tracked'):
            assert torch.equal(value, before[name]), name


def test_two_processes_without_a_gpu(trained_segmentor, tmp_path):
    """SyncBN has no kernels for CPUs. Three images over two ranks count once each."""
    root = synthetic.draw_ade(tmp_path / 'ade', num_train=8, num_val=3)
    options = [
        f'{loader}_dataloader.dataset.{key}=.bmp'
        for loader in ('train', 'val', 'test')
        for key in ('img_suffix', 'seg_map_suffix')
    ]

    def both(tool, *argv):
        done = subprocess.run(
            [
                sys.executable,
                '-m',
                'torch.distributed.run',
                '--nproc-per-node=2',
                '--standalone',
                str(ROOT / f'tools/{tool}.py'),
                SEMFPN,
                *map(str, argv),
                '--data-root',
                str(root),
                '--launcher',
                'pytorch',
            ],
            capture_output=True,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    out = both(
        'train',
        '--from-scratch',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL_SEMFPN,
        'train_cfg.max_iters=2',
        *options,
    )
    assert out.count('iteration  2/2') == 1
    assert checkpoint.read(tmp_path / 'run/iter_2.pth')['meta']['iter'] == 2
    last = trained_segmentor[0] / 'iter_4.pth'
    both(
        'test',
        last,
        '--work-dir',
        tmp_path / '2',
        '--out',
        tmp_path / '2.json',
        '--cfg-options',
        *options,
    )
    call(
        'test',
        SEMFPN,
        last,
        '--work-dir',
        tmp_path / '1',
        '--out',
        tmp_path / '1.json',
        '--data-root',
        root,
        '--cfg-options',
        *options,
    )
    assert json.loads((tmp_path / '1.json').read_text()) == json.loads(
        (tmp_path / '2.json').read_text()
    )


def test_mmsegs_own_train_and_test(ade_root, tmp_path):
    """Our plugin and config without our commands, from the installed package."""
    import mmseg

    tools = Path(mmseg.__file__).parent / '.mim/tools'
    options = [
        '--cfg-options',
        'model.backbone.init_cfg=None',
        *SMALL_SEMFPN,
        'train_cfg.max_iters=2',
        *(
            f'{loader}_dataloader.dataset.data_root={ade_root}'
            for loader in ('train', 'val', 'test')
        ),
    ]
    run = [sys.executable, str(tools / 'train.py'), SEMFPN, '--work-dir', str(tmp_path)]
    done = subprocess.run(run + options, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = [
        sys.executable,
        str(tools / 'test.py'),
        SEMFPN,
        str(tmp_path / 'iter_2.pth'),
        '--work-dir',
        str(tmp_path / 'theirs'),
    ]
    done = subprocess.run(run + options, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    # and our test command reads what mmseg's tool wrote
    call(
        'test',
        SEMFPN,
        tmp_path / 'iter_2.pth',
        '--data-root',
        ade_root,
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'm.json',
        '--cfg-options',
        *SMALL_SEMFPN,
    )
    numbers = json.loads((tmp_path / 'm.json').read_text())
    (log,) = (tmp_path / 'theirs').glob('*/*.json')
    theirs = json.loads(log.read_text())
    assert theirs['mIoU'] == pytest.approx(numbers['mIoU'], abs=1e-6)


def test_mmsegs_own_inference(telling, ade_root):
    """With the config that the run wrote next to its checkpoint."""
    code = f"""
import numpy as np
from mmseg.apis import MMSegInferencer, inference_model, init_model
image = {str(ade_root / 'images/validation/ADE_val_00000003.jpg')!r}
config, checkpoint = {str(telling.parent / 'semfpn_effvim_m1.py')!r}, {str(telling)!r}
model = init_model(config, checkpoint, device='cpu')
first = inference_model(model, image).pred_sem_seg.data[0].numpy()
assert len(model.dataset_meta['classes']) == 150 and first.shape == (300, 400)
assert len(np.unique(first)) >= 5
inferencer = MMSegInferencer(config, checkpoint, device='cpu')
assert np.array_equal(first, inferencer(image)['predictions'])
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'do not match' not in done.stdout


def test_mmsegs_own_inference_on_the_published_config(ade_root, tmp_path):
    """With weights as converted ones are: a state dict and nothing else."""
    code = f"""
import torch
from mmseg.apis import MMSegInferencer, init_model
config, checkpoint = {SEMFPN!r}, {str(tmp_path / 'c.pth')!r}
model = init_model(config, device='cpu')
torch.save(dict(state_dict=model.state_dict(), meta={{}}), checkpoint)
model = init_model(config, checkpoint, device='cpu')
assert len(model.dataset_meta['classes']) == 150  # mmseg takes those of ADE20K
image = {str(ade_root / 'images/validation/ADE_val_00000003.jpg')!r}
predicted = MMSegInferencer(config, checkpoint, device='cpu')(image)['predictions']
assert predicted.shape == (300, 400)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'do not match' not in done.stdout
