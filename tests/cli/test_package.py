"""What `pip install` brings: packages, configs and commands that need no checkout."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from effvim.cli.main import COMMANDS, main, run_main
from effvim.config.packaged import config_path
from effvim.datasets import synthetic
from tests.helpers.paths import DATA, ROOT

CONFIGS = {path.relative_to(ROOT / 'configs') for path in (ROOT / 'configs').rglob('*.py')}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built as a user does."""
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder, ROOT], check=True
    )
    (path,) = folder.iterdir()
    return path


def test_the_wheel_holds_what_it_should(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packages = {'backbone', 'effvim', 'mmdet_plugin', 'mmseg_plugin'}
    info = {name.split('/')[0] for name in names} - packages
    assert len(info) == 1 and info.pop().endswith('.dist-info')
    assert {f'{package}/py.typed' for package in packages} <= set(names)
    assert {f'effvim/configs/{path}' for path in CONFIGS} <= set(names)
    pins = zipfile.ZipFile(wheel).read('effvim/tested.txt')
    assert pins == (ROOT / 'requirements.txt').read_bytes()
    sources = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).glob('*.py')
    }
    assert sources <= set(names)


def test_every_tool_is_a_command():
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert {name.removesuffix('_weights') for name in tools} <= set(COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_speak_of_themselves(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/effvim'])
    with pytest.raises(SystemExit) as end:
        run_main(main, [name, '--help'])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: effvim {name} ')
    assert run_main(main, [name, '--nonsense']) == 2
    assert f'effvim {name} --help' in capsys.readouterr().err


def test_a_command_that_is_none(capsys):
    assert run_main(main, ['tarin']) == 2
    err = capsys.readouterr().err
    assert "'tarin'" in err and 'train' in err and err.count('\n') == 1


def test_configs_go_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in CONFIGS:
        if path.parts[0] != '_base_':
            for name in (str(path.with_suffix('')), str(path)):
                assert Path(config_path(name)).resolve() == ROOT / 'configs' / path
    Path('retinanet_effvim_m4.py').touch()  # one's own comes first
    assert config_path('retinanet_effvim_m4.py') == 'retinanet_effvim_m4.py'
    assert run_main(main, ['train', 'retinanet_effvim_m9']) == 2
    assert 'retinanet_effvim_m9' in capsys.readouterr().err


PROGRAM = """
import torch
from torch import Tensor
from backbone import ARCHS, EfficientViM, EfficientViMClassifier, FeatureInfo, HSMSSD, UserError
from effvim.fuse import fuse
from effvim.predictor import Predictor

network = EfficientViM(arch='m4', out_indices=(0, 1, 2))
infos: tuple[FeatureInfo, ...] = network.feature_info
channels: list[int] = [info.channels for info in infos]
maps: tuple[Tensor, ...] = network.forward(torch.zeros(1, 3, 64, 64))
fuse(EfficientViMClassifier(arch='m1', num_classes=10))
HSMSSD(64, state_dim=16, expand=2)
found = Predictor('c.pth')('picture.jpg')
classes: tuple[str, ...] = found.classes
"""


@pytest.mark.parametrize(
    'line, error',
    [
        ('', None),
        ('EfficientViM(arch=4)', 'arg-type'),
        ('network.feature_info.channels', 'attr-def'),
        ('Predictor("c.pth")("a.jpg").colour', 'attr-def'),
    ],
    ids=['good', 'arch', 'info', 'found'],
)
def test_public_names_are_typed(line, error, tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM + line)
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'mypy',
            '--follow-imports=silent',
            '--ignore-missing-imports',
            f'--cache-dir={ROOT}/.mypy_cache',
            'program.py',
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'MYPYPATH': str(ROOT)},
    )
    errors = [text for text in done.stdout.splitlines() if ': error:' in text]
    assert len(errors) == bool(error), done.stdout + done.stderr
    assert error is None or error in errors[0]


def test_under_torchvision_without_openmmlab():
    """README's example, in a process that cannot import anything of OpenMMLab."""
    (example,) = re.findall(
        r'```python\n(class Pyramid.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL
    )
    code = f"""
import sys
for name in ('mmcv', 'mmengine', 'mmdet', 'mmseg'):
    sys.modules[name] = None
import torch, torchvision
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from backbone import EfficientViM
{example}
images = [torch.rand(3, 96, 128), torch.rand(3, 128, 100)]
truth = [dict(boxes=torch.tensor([[10., 20, 70, 90]]), labels=torch.tensor([i])) for i in (3, 7)]
losses = detector(images, truth)
sum(losses.values()).backward()
assert all(p.grad is not None for p in detector.backbone.fpn.parameters())
used = [p.grad is not None for p in detector.backbone.body.parameters() if p.requires_grad]
assert all(used) and used
with torch.no_grad():
    found = detector.eval()(images)
assert [sorted(one) for one in found] == [['boxes', 'labels', 'scores']] * 2
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_in_an_empty_environment(wheel, tmp_path):
    """A user's own folder and config: our command, then mmdet's own tool."""
    place = tmp_path / 'env'
    venv.create(place, with_pip=True)
    python = place / 'bin/python'
    pip = [python, '-m', 'pip', 'install', '-q', '--no-cache-dir']
    env = {**os.environ, 'MMCV_WITH_OPS': '0'}
    env.pop('PYTHONPATH', None)
    subprocess.run([*pip, '--no-binary', 'onedl-mmcv', wheel], check=True, env=env)
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
        classes = mini.CLASSES
    (folder / 'mine.py').write_text(f"""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdet_plugin'])
model = dict(
    backbone=dict(_delete_=True, type='EfficientViM', arch='m1', out_indices=(0, 1, 2)),
    neck=dict(_delete_=True, type='EfficientViMFPN', in_channels=[128, 192, 320],
              num_transposed=1),
    bbox_head=dict(num_classes={len(classes)}),
    test_cfg=dict(score_thr=0.0))  # of few steps nothing is sure
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
    site = call(python, '-c', 'import mmdet; print(mmdet.__path__[0])').strip()
    call(python, f'{site}/.mim/tools/train.py', 'mine.py', '--work-dir', 'theirs')
    state = torch.load(folder / 'theirs/epoch_1.pth', map_location='cpu', weights_only=False)
    assert any(name.startswith('backbone.stages') for name in state['state_dict'])
