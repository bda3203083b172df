"""The commands on real COCO images, and mmdet's own tools on our configs."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from effvim.engine.randomness import restore_random_states
from effvim.files import write_atomic
from tests.helpers.cli import run_command
from tests.helpers.coco import assert_equals_pycocotools
from tests.helpers.real_runs import SMALL_RETINANET, call
from tests.helpers.training import RETINANET


def test_what_a_person_sees(trained_detector):
    folder, out = trained_detector
    assert '126 training images, 36 validation images, 80 classes: person, bicycle' in out
    assert 'epoch 1/1  16/16  loss ' in out and 'eta 0:00:00  memory ' in out
    assert 'coco/bbox_mAP_50' in out
    for name in ('curves.png', 'images', 'epoch_1.pth'):
        assert str(folder / name) in out and (folder / name).exists()
    with Image.open(folder / 'curves.png') as image:
        image.load()
        assert image.width > 1000
    assert len(list((folder / 'images').glob('*.png'))) == 8


def test_checkpoint_knows_what_it_is(trained_detector, coco_root):
    content = checkpoint.read(trained_detector[0] / 'epoch_1.pth')
    described = checkpoint.describe(content)
    assert described['config'] == 'retinanet_effvim_m1.py'
    assert described['presets'] == ['from_scratch']
    assert (
        described['data_root'] == str(coco_root)
        and described['options']['train_cfg.max_epochs'] == 1
    )
    assert described['position'] == {'epoch': 1, 'batch': 0, 'batches_per_epoch': 16}
    assert described['versions']['torch'] == f'torch {torch.__version__.split("+")[0]}'
    assert len(checkpoint.classes_of(content)) == 80
    assert {'python', 'numpy', 'torch'} <= content['random_states'].keys()
    before = torch.get_rng_state()
    restore_random_states(content['random_states'])
    assert not torch.equal(torch.get_rng_state(), before)


def test_evaluation_needs_no_flags_and_equals_pycocotools(trained_detector, coco_root, tmp_path):
    metrics = tmp_path / 'metrics.json'
    call(
        'test',
        RETINANET,
        trained_detector[0] / 'epoch_1.pth',
        '--out',
        metrics,
        '--work-dir',
        tmp_path,
        '--show-dir',
        tmp_path / 'shown',
        '--cfg-options',
        f'+test_evaluator.outfile_prefix={tmp_path}/detections',
    )
    numbers = json.loads(metrics.read_text())
    assert len(numbers) == 12 and all(k.startswith('coco/bbox_') for k in numbers)
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 36

    ground_truth = coco_root / 'annotations/instances_val2017.json'
    assert len(json.loads(ground_truth.read_text())['images']) == 36
    assert_equals_pycocotools(numbers, ground_truth, tmp_path / 'detections.bbox.json', 'bbox')


def test_folded_evaluation_gives_the_same_metrics(trained_detector, tmp_path):
    numbers = []
    for flags in ([], ['--fuse']):
        call(
            'test',
            RETINANET,
            trained_detector[0] / 'epoch_1.pth',
            '--out',
            tmp_path / 'm.json',
            '--work-dir',
            tmp_path,
            *flags,
        )
        numbers.append(json.loads((tmp_path / 'm.json').read_text()))
    plain, folded = numbers
    assert max(plain.values()) > 0
    assert folded == pytest.approx(plain, abs=1e-4)


def test_code_in_a_checkpoint_is_not_run_by_resuming(trained_detector, tmp_path):
    content = checkpoint.read(trained_detector[0] / 'epoch_1.pth')
    content['meta']['config'] = f'open({str(tmp_path / "ran")!r}, "w")'
    torch.save(content, tmp_path / 'epoch_1.pth')
    call(
        'train',
        RETINANET,
        '--resume',
        tmp_path / 'epoch_1.pth',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'train_cfg.max_epochs=2',
    )
    assert (tmp_path / 'epoch_2.pth').exists() and not (tmp_path / 'ran').exists()


def test_no_detections_are_printed_as_zero(trained_detector, tmp_path, capsys):
    call(
        'test',
        RETINANET,
        trained_detector[0] / 'epoch_1.pth',
        '--out',
        tmp_path / 'm.json',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'model.test_cfg.score_thr=1.0',
    )
    assert json.loads((tmp_path / 'm.json').read_text())['coco/bbox_mAP'] == 0
    assert '0.0000' in capsys.readouterr().out


def test_resume_continues_where_it_was(trained_detector, tmp_path, capsys):
    folder = Path(shutil.copytree(trained_detector[0], tmp_path / 'run'))
    call(
        'train',
        RETINANET,
        '--resume',
        '--work-dir',
        folder,
        '--cfg-options',
        'train_cfg.max_epochs=2',
    )
    out = capsys.readouterr().out
    assert 'epoch 2/2  16/16' in out and 'epoch 1/2' not in out
    content = checkpoint.read(folder / 'epoch_2.pth')
    assert content['meta']['iter'] == 32
    state = next(iter(content['optimizer']['state'].values()))
    assert int(state['step']) == 32


def test_fine_tuning_on_other_classes_keeps_the_rest(trained_detector, tmp_path, capsys):
    root = synthetic.draw_coco(tmp_path / 'coco', num_train=8, num_val=4)
    call(
        'train',
        RETINANET,
        '--from-scratch',
        '--data-root',
        root,
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL_RETINANET,
        f'load_from={trained_detector[0] / "epoch_1.pth"}',
        'optim_wrapper.optimizer.lr=0',
    )
    assert 'bbox_head.retina_cls.weight, bbox_head.retina_cls.bias' in capsys.readouterr().out
    before = checkpoint.read(trained_detector[0] / 'epoch_1.pth')['state_dict']
    after = checkpoint.read(tmp_path / 'run/epoch_1.pth')['state_dict']
    for name, value in after.items():
        if 'retina_cls' in name:
            assert value.shape[0] == 27
        elif 'running_' not in name and not name.endswith('num_batches_tracked'):
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('how', ['truncated', 'rubbish', 'empty'])
def test_unreadable_image_is_named(how, coco_root, tmp_path, capsys):
    root = Path(shutil.copytree(coco_root, tmp_path / 'coco'))
    path = sorted((root / 'val2017').iterdir())[3]
    whole = path.read_bytes()
    path.write_bytes(
        {'truncated': whole[: len(whole) // 2], 'rubbish': b'no image' * 99, 'empty': b''}[how]
    )
    torch.manual_seed(0)
    model = build(RETINANET)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'c.pth')
    status = run_command(
        'test',
        [
            RETINANET,
            str(tmp_path / 'c.pth'),
            '--data-root',
            str(root),
            '--work-dir',
            str(tmp_path),
            '--cfg-options',
            'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        ],
    )
    err = capsys.readouterr().err.strip()
    assert status == 2 and err.startswith('error: image') and path.name in err
    assert err.count('\n') == 0


def build(config):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import mmdet_plugin  # noqa: F401

    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    from mmdet.registry import MODELS

    return MODELS.build(cfg.model)


def test_checkpoints_are_written_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'):
        write_atomic(path, b'new' * 1000)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_mmdets_own_train_and_test(coco_root, tmp_path):
    """Our plugin and config without our commands, from the installed package."""
    import mmdet

    tools = Path(mmdet.__file__).parent / '.mim/tools'
    root = str(coco_root) + '/'
    val = f'{root}annotations/instances_val2017.json'
    options = [
        '--cfg-options',
        'model.backbone.init_cfg=None',
        *SMALL_RETINANET,
        f'train_dataloader.dataset.data_root={root}',
        f'val_dataloader.dataset.data_root={root}',
        f'test_dataloader.dataset.data_root={root}',
        f'val_evaluator.ann_file={val}',
        f'test_evaluator.ann_file={val}',
        'env_cfg.dist_cfg.backend=gloo',
    ]
    run = [sys.executable, str(tools / 'train.py'), RETINANET, '--work-dir', str(tmp_path)]
    done = subprocess.run(run + options, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'epoch_1.pth').is_file() and 'bbox_mAP' in done.stdout
    # and our test command reads what mmdet's tool wrote
    call(
        'test',
        RETINANET,
        tmp_path / 'epoch_1.pth',
        '--data-root',
        coco_root,
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'm.json',
        '--cfg-options',
        *SMALL_RETINANET,
    )
    assert math.isfinite(json.loads((tmp_path / 'm.json').read_text())['coco/bbox_mAP'])


def test_mmdets_own_inference(trained_detector, coco_root):
    code = f"""
import mmdet_plugin
from mmengine.config import Config
from mmdet.apis import DetInferencer, inference_detector, init_detector
image = {str(sorted((coco_root / 'val2017').iterdir())[0])!r}
checkpoint = {str(trained_detector[0] / 'epoch_1.pth')!r}
inferencer = DetInferencer(weights=checkpoint, device='cpu', show_progress=False)
first = inferencer(image)['predictions'][0]
model = init_detector(Config(dict(inferencer.cfg)), checkpoint, device='cpu')
second = inference_detector(model, image).pred_instances
assert len(second) == len(first['scores']) > 0
assert abs(second.scores.max().item() - max(first['scores'])) < 1e-5
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
