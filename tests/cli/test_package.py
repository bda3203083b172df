"""What `pip install` brings: packages, configs and commands, without a checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import effvim
from effvim.cli.main import COMMANDS, run
from effvim.config.packaged import config_path
from tests.helpers.paths import ROOT

PACKAGES = ('backbone', 'effvim', 'mmdet_plugin', 'mmseg_plugin')
CONFIGS = {path.relative_to(ROOT / 'configs') for path in (ROOT / 'configs').rglob('*.py')}


def packaged():
    """Every file that a wheel must hold, apart from its metadata."""
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ('*.py', '*.j2', '*.json', 'py.typed')
        for path in (ROOT / package).rglob(pattern)
    }
    files |= {f'effvim/configs/{path.as_posix()}' for path in CONFIGS}
    return files | {'effvim/requirements.txt'}


def content(path):
    """The files of a wheel, apart from its metadata."""
    names = set(zipfile.ZipFile(path).namelist())
    metadata = {name for name in names if name.split('/')[0].endswith('.dist-info')}
    assert len({name.split('/')[0] for name in metadata}) == 1
    return names - metadata


def test_the_wheel_holds_what_it_should(wheel):
    assert content(wheel) == packaged()
    assert {f'{package}/py.typed' for package in PACKAGES} <= content(wheel)
    pins = zipfile.ZipFile(wheel).read('effvim/requirements.txt')
    assert pins == (ROOT / 'requirements.txt').read_bytes()


def test_a_wheel_out_of_the_source_package_is_the_same(checkout, wheel, tmp_path):
    def build(kind, folder):
        code = f'from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})'
        subprocess.run([sys.executable, '-c', code], cwd=folder, check=True, capture_output=True)

    build('sdist', checkout)
    (source,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter='data')
    folder = tmp_path / source.name.removesuffix('.tar.gz')
    assert not (folder / 'tests').exists()
    build('wheel', folder)
    (rebuilt,) = tmp_path.glob('*.whl')
    assert content(rebuilt) == content(wheel)


def test_installed_files_come_from_the_package(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        'from effvim import resources; from effvim.config.packaged import config_path; '
        'print(resources.CONFIGS, resources.REQUIREMENTS, config_path("retinanet_effvim_m1"))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        check=True,
    )
    package = tmp_path / 'effvim'
    expected = ['configs', 'requirements.txt', 'configs/retinanet_effvim_m1.py']
    assert done.stdout.split() == [str(package / name) for name in expected]


def test_one_version_everywhere():
    text = (ROOT / 'pyproject.toml').read_text()
    (version,) = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)
    assert effvim.__version__ == version
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == version


def test_every_tool_is_a_command():
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert {name.removesuffix('_weights') for name in tools} <= set(COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_commands_explain_themselves(name, capsys):
    with pytest.raises(SystemExit) as end:
        run([name, '--help'])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: effvim {name} ')
    assert run([name, '--nonsense']) == 2
    assert f'effvim {name} --help' in capsys.readouterr().err


def test_an_unknown_command(capsys):
    assert run(['tarin']) == 2
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
    assert run(['train', 'retinanet_effvim_m9']) == 2
    assert 'retinanet_effvim_m9' in capsys.readouterr().err


PROGRAM = """
import torch
from torch import Tensor
from backbone import ARCHS, EfficientViM, EfficientViMClassifier, FeatureInfo, HSMSSD, UserError
from effvim import Predictor, fuse

network = EfficientViM(arch='m4', out_indices=(0, 1, 2))
infos: tuple[FeatureInfo, ...] = network.feature_info
channels: list[int] = [info.channels for info in infos]
maps: tuple[Tensor, ...] = network.forward(torch.zeros(1, 3, 64, 64))
fuse(EfficientViMClassifier(arch='m1', num_classes=10))
HSMSSD(64, state_dim=16, expand=2)
prediction = Predictor('c.pth')('image.jpg')
classes: tuple[str, ...] = prediction.classes
"""


MISUSES = {
    'EfficientViM(arch=4)': 'arg-type',
    'network.feature_info.channels': 'attr-defined',
    'Predictor("c.pth")("a.jpg").colour': 'attr-defined',
}


def test_public_names_are_typed(tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM + '\n'.join(MISUSES))
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'mypy',
            '--follow-imports=silent',
            '--ignore-missing-imports',
            f'--cache-dir={ROOT}/.mypy_cache/public',  # other flags than those of `make lint`
            'program.py',
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'MYPYPATH': str(ROOT)},
    )
    errors = re.findall(r'^program.py:(\d+): error: .*\[([\w-]+)\]$', done.stdout, re.M)
    first = PROGRAM.count('\n') + 1
    expected = [(str(first + i), code) for i, code in enumerate(MISUSES.values())]
    assert errors == expected, done.stdout + done.stderr


def test_under_torchvision_without_openmmlab():
    """The example of docs/integration.md, in a process that cannot import anything of OpenMMLab."""
    (example,) = re.findall(
        r'```python\n(class Pyramid.*?)```', (ROOT / 'docs/integration.md').read_text(), re.DOTALL
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
targets = [dict(boxes=torch.tensor([[10., 20, 70, 90]]), labels=torch.tensor([i])) for i in (3, 7)]
losses = detector(images, targets)
sum(losses.values()).backward()
assert all(p.grad is not None for p in detector.backbone.fpn.parameters())
used = [p.grad is not None for p in detector.backbone.body.parameters() if p.requires_grad]
assert all(used) and used
with torch.no_grad():
    predictions = detector.eval()(images)
assert [sorted(one) for one in predictions] == [['boxes', 'labels', 'scores']] * 2
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
