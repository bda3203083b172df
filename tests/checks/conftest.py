"""Synthetic datasets of both layouts, and a call of `effvim check`."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from effvim.datasets import synthetic
from tests.helpers.cli import run_command


@pytest.fixture(scope='module')
def synthetic_folder(tmp_path_factory):
    """Both layouts; ADE20K's as JPEG and PNG, which the published config expects."""
    folder = tmp_path_factory.mktemp('check')
    synthetic.draw_coco(folder / 'coco', num_train=40, num_val=5, size=64)
    source = synthetic.draw_ade(folder / 'bmp', num_train=6, num_val=3, size=64)
    for path in source.rglob('*.bmp'):
        suffix = '.jpg' if path.parts[-3] == 'images' else '.png'
        target = folder / 'ade' / path.relative_to(source).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    return folder


@pytest.fixture
def coco(synthetic_folder, tmp_path, monkeypatch):
    """A copy of the dataset in COCO's layout, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(synthetic_folder / 'coco', tmp_path / 'coco'))


@pytest.fixture
def ade(synthetic_folder, tmp_path, monkeypatch):
    """A copy of the dataset in ADE20K's layout, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(synthetic_folder / 'ade', tmp_path / 'ade'))


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command; returns its status, text and JSON."""

    def call(*argv):
        capsys.readouterr()
        status = run_command('check', [*map(str, argv), '--out', str(tmp_path / 'report.json')])
        out, err = capsys.readouterr()
        assert err == ''
        content = json.loads((tmp_path / 'report.json').read_text())
        assert content['status'] == status == int('\nproblem: ' in out)
        return status, out, content

    return call


@pytest.fixture
def without_steps(monkeypatch):
    """Skip the measured steps, which take seconds."""
    monkeypatch.setattr('effvim.checks.cost.cost', lambda *_: None)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Synthetic datasets by kind of config."""
    folder = tmp_path_factory.mktemp('data')
    return {
        'retinanet': synthetic.draw_coco(folder / 'coco', num_train=9, num_val=5, size=64),
        'semfpn': synthetic.draw_ade(folder / 'ade', num_train=9, num_val=5, size=64),
    }
