"""Inputs for the commands, and how long and where they may run."""

import gc
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from effvim.config.reading import load_config
from effvim.datasets import synthetic
from tests.helpers import malformed
from tests.helpers.paths import ROOT

SECONDS = 20  # a call that takes longer hangs


@pytest.fixture(scope='session')
def synthetic_coco(tmp_path_factory):
    """A synthetic dataset in COCO's layout, not to be changed."""
    return synthetic.draw_coco(tmp_path_factory.mktemp('cli') / 'coco', num_train=6, num_val=2)


@pytest.fixture
def root(synthetic_coco, tmp_path):
    """A copy of the synthetic dataset to spoil."""
    return Path(shutil.copytree(synthetic_coco, tmp_path / 'coco'))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Run in an empty directory, without the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)


@pytest.fixture
def time_limit():
    """Fail after `SECONDS`."""

    def late(*_):
        raise TimeoutError(f'more than {SECONDS} s')

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope='module')
def valid_inputs(tmp_path_factory):
    """Valid datasets of both layouts, coco/ and ade/, and valid weights, good.pth."""
    folder = tmp_path_factory.mktemp('malformed')
    synthetic.draw_coco(folder / 'coco', num_train=3, num_val=2, size=64)
    source = synthetic.draw_ade(folder / 'bmp', num_train=2, num_val=2, size=64)
    for path in source.rglob('*.bmp'):
        suffix = '.jpg' if path.parts[-3] == 'images' else '.png'
        target = folder / 'ade' / path.relative_to(source).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    torch.save({'state_dict': malformed.state()}, folder / 'good.pth')
    return folder


@pytest.fixture(scope='module')
def fuzz_root(tmp_path_factory):
    """A tiny synthetic dataset whose annotations are mutated."""
    return synthetic.draw_coco(
        tmp_path_factory.mktemp('fuzz') / 'coco', num_train=3, num_val=1, size=64
    )


@pytest.fixture(scope='module')
def annotations(fuzz_root):
    """Its annotation file, with a mask in run lengths and one in polygons."""
    content = json.loads((fuzz_root / 'annotations/instances_train2017.json').read_text())
    content['annotations'] = content['annotations'][:4]
    content['annotations'][1]['segmentation'] = [[3.5, 4, 30, 5, 20, 31.5], [1, 1, 9, 1, 9, 9]]
    return content


@pytest.fixture(scope='module')
def retinanet_config():
    """A config as it is read."""
    return load_config(str(ROOT / 'configs/retinanet_effvim_m1.py'))


@pytest.fixture
def own_threshold():
    """A threshold of the garbage collector that the program has chosen itself."""
    before = gc.get_threshold()
    gc.set_threshold(1234, 5, 6)
    yield
    gc.set_threshold(*before)
