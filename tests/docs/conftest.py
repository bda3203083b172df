"""The built site, and the directory that its pages start from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from effvim.datasets import synthetic
from tests.helpers.custom_data import draw_yolo
from tests.helpers.documentation import small
from tests.helpers.paths import ROOT
from tests.helpers.runs import call
from tests.helpers.videos import write_video


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr
    return folder


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """What a reader has: data and a trained run."""
    folder = tmp_path_factory.mktemp('start')
    coco = synthetic.draw_coco(folder / 'data/coco', num_train=2, num_val=2, size=64)
    ade = synthetic.draw_ade(
        folder / 'data/ade/ADEChallengeData2016', num_train=2, num_val=2, size=64
    )
    for root, name in ((coco, 'mini-coco'), (ade, 'mini-ade')):
        (folder / 'data' / name).symlink_to(root)
    config = str(ROOT / 'configs/retinanet_effvim_m1.py')
    work_dir = folder / 'work_dirs/a'
    call('train', config, '--data-root', coco, '--work-dir', work_dir, *small(config, []))
    shutil.copytree(work_dir, folder / 'work_dirs/b')
    return folder


@pytest.fixture
def here(start, tmp_path, monkeypatch):
    """The current directory, as the pages assume it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(start / 'data')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    Path('images').mkdir()
    for i, path in enumerate(sorted((start / 'data/coco/train2017').iterdir())):
        Image.open(path).save(f'images/{i}.jpg')
    shutil.copytree(start / 'work_dirs', 'work_dirs')
    for name in ('retinanet_effvim_m1', 'retinanet_effvim_m1-mini'):  # pages that do not train
        shutil.copytree(start / 'work_dirs/a', Path('work_dirs') / name)
    shutil.copy('work_dirs/a/epoch_2.pth', '.')
    shutil.copy('work_dirs/a/retinanet_effvim_m1.py', '.')
    shutil.copy('images/0.jpg', 'image.jpg')
    write_video('street.mp4', 4, size=(80, 64))
    for name in ('shapes', 'FOLDER'):
        draw_yolo(tmp_path / name, 6)
