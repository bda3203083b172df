"""`pip install` of the wheel into an empty environment, and what then works there."""

import os
import re
import subprocess
import venv

import pytest
import torch

from effvim.datasets import scenes, synthetic
from tests.helpers.paths import DATA, ROOT


@pytest.mark.slow
def test_in_an_empty_environment(wheel, tmp_path):
    """A user's own directory and config: our command, then mmdet's own tool.

    Plain pip builds mmcv without its operators, which need PyTorch to be installed beforehand.
    """
    place = tmp_path / 'env'
    venv.create(place, with_pip=True)
    python = place / 'bin/python'
    pip = [python, '-m', 'pip', 'install', '-q', '--no-cache-dir']
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    subprocess.run([*pip, wheel], check=True, env=env)
    done = subprocess.run([place / 'bin/effvim', 'check'], capture_output=True, text=True, env=env)
    if done.returncode == 2:  # no libGL on this machine: one line says what to install
        assert 'opencv-python-headless' in done.stderr and done.stderr.count('\n') == 1
        pins = (ROOT / 'requirements.txt').read_text()
        headless = re.search('^opencv-python-headless==.*$', pins, re.MULTILINE)[0]
        subprocess.run([*pip, '--force-reinstall', '--no-deps', headless], check=True, env=env)
    folder = tmp_path / 'mine'
    (folder / 'data').mkdir(parents=True)
    if (DATA / 'coco').is_dir():
        from mmdet.datasets import CocoDataset

        root, classes = folder / 'data/coco', CocoDataset.METAINFO['classes']
        root.symlink_to((DATA / 'coco').resolve())
    else:
        root = synthetic.draw_coco(folder / 'data/coco', num_train=4, num_val=2, size=96)
        classes = scenes.CLASSES
    (folder / 'mine.py').write_text(f"""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_plugin'])
model = dict(
    backbone=dict(_delete_=True, type='EfficientViM', arch='m1', out_indices=(0, 1, 2)),
    neck=dict(_delete_=True, type='EfficientViMFPN', in_channels=[128, 192, 320],
              num_transposed=1),
    bbox_head=dict(num_classes={len(classes)}),
    test_cfg=dict(score_thr=0.0))  # of few steps every score is low
few = dict(metainfo=dict(classes={classes}), indices=4)
train_dataloader = dict(dataset=few, num_workers=0, persistent_workers=False)
val_dataloader = dict(dataset=few, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
""")

    def call(*argv):
        done = subprocess.run(
            [str(a) for a in argv], capture_output=True, text=True, cwd=folder, env=env
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    call(place / 'bin/effvim', 'check')
    call(place / 'bin/effvim', 'train', 'mine.py', '--work-dir', 'ours')
    assert 'coco/bbox_mAP' in call(place / 'bin/effvim', 'test', 'mine.py', 'ours/epoch_1.pth')
    call(
        place / 'bin/effvim',
        'train',
        'retinanet_effvim_m1',
        '--from-scratch',
        '--data-root',
        root,
        '--work-dir',
        'named',
        '--dry-run',
        '--cfg-options',
        'train_dataloader.batch_size=2',
    )
    call(place / 'bin/effvim', 'train', 'retinanet_effvim_m1', '--mini', '--dry-run')
    site = call(python, '-c', 'import mmdet; print(mmdet.__path__[0])').strip()
    call(python, f'{site}/.mim/tools/train.py', 'mine.py', '--work-dir', 'theirs')
    state = torch.load(folder / 'theirs/epoch_1.pth', map_location='cpu', weights_only=False)
    assert any(name.startswith('backbone.stages') for name in state['state_dict'])
