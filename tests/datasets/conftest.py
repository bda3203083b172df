"""Synthetic datasets to read and to spoil."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvim.datasets import coco, scenes, synthetic


@pytest.fixture(scope='module')
def synthetic_ade(tmp_path_factory):
    """A synthetic dataset as JPEG and PNG, which the published config expects."""
    folder = tmp_path_factory.mktemp('a')
    source = synthetic.draw_ade(folder / 'bmp', num_train=8, num_val=2)
    for path in source.rglob('*.bmp'):
        suffix = '.jpg' if path.parts[-3] == 'images' else '.png'
        target = folder / 'ade' / path.relative_to(source).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    return folder / 'ade'


@pytest.fixture
def ade_copy(synthetic_ade, tmp_path):
    """A copy of the dataset to spoil."""
    return Path(shutil.copytree(synthetic_ade, tmp_path / 'ade'))


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """Run in an empty directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parsed(monkeypatch):
    """Sizes of the files that are parsed."""
    sizes = []
    loads = json.loads

    def counted(text, **options):
        sizes.append(len(text))
        return loads(text, **options)

    monkeypatch.setattr(coco.json, 'loads', counted)
    return sizes


@pytest.fixture
def small_coco(tmp_path):
    """A tiny synthetic dataset in COCO's layout."""
    return synthetic.draw_coco(tmp_path / 'coco', num_train=3, num_val=2, size=64)


@pytest.fixture(scope='module')
def synthetic_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset, drawn once for a test file."""
    return synthetic.draw_coco(tmp_path_factory.mktemp('mini') / 'coco')


@pytest.fixture(scope='module')
def many_scenes() -> list[scenes.Scene]:
    """Five hundred scenes."""
    rng = np.random.RandomState(99)
    return [scenes.draw_scene(rng) for _ in range(500)]
