"""Fixtures that tests of several rooms share."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # several share the cores; read when torch is imported
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch

from tests.helpers.paths import DATA, ROOT

# A shell ignores it for what it starts in the background, and Python then leaves it at that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault('MKL_CBWR', 'AUTO')  # as effvim.cli.main does, before the first matmul

LARGE = 2**20  # bytes


@pytest.fixture(autouse=True)
def large_files_are_removed(request):
    """Remove the large files that a test wrote when it ends: all together are tens of gigabytes.

    pytest's own `tmp_path_retention_policy` would remove directories, into which mmengine's loggers
    still write.
    """
    folder = request.getfixturevalue('tmp_path') if 'tmp_path' in request.fixturenames else None
    yield
    with contextlib.suppress(FileNotFoundError):  # a process that still ends removes its own
        for path in folder.rglob('*') if folder else ():
            if path.is_file() and not path.is_symlink() and path.stat().st_size > LARGE:
                path.unlink()


@pytest.fixture(scope='session')
def coco_root() -> Path:
    """Real COCO images and annotations."""
    if not (DATA / 'coco/annotations').is_dir():
        pytest.skip(f'no COCO sample in {DATA}; set EFFVIM_DATA')
    return (DATA / 'coco').resolve()


@pytest.fixture(scope='session')
def ade_root() -> Path:
    """Real ADE20K images and annotations."""
    root = DATA / 'ade/ADEChallengeData2016'
    if not (root / 'annotations').is_dir():
        pytest.skip(f'no ADE20K sample in {DATA}; set EFFVIM_DATA')
    return root.resolve()


@pytest.fixture(scope='session')
def run_of(tmp_path_factory):
    """Small trained runs by kind, see tests/helpers/runs.py; each is trained once."""
    from tests.helpers.runs import Run

    return functools.cache(lambda kind: Run(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope='session')
def checkout(tmp_path_factory) -> Path:
    """A copy of what packages are built from, without the traces of earlier builds."""
    copy = tmp_path_factory.mktemp('build') / 'checkout'
    ignored = shutil.ignore_patterns(
        '.*', '__pycache__', '*.egg-info', 'build', 'data', 'work_dirs'
    )
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


@pytest.fixture(scope='session')
def wheel(checkout, tmp_path_factory) -> Path:
    """The wheel, built with `pip wheel`."""
    folder = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder, checkout]
    subprocess.run(pip, check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """Draw twelve images as a YOLO dataset in ./shapes; returns the objects by image name."""
    from tests.helpers.custom_data import draw_yolo

    monkeypatch.chdir(tmp_path)
    return draw_yolo(tmp_path / 'shapes', 12)


@pytest.fixture
def regions(tmp_path, monkeypatch):
    """Draw twelve images with masks in ./regions; returns the masks by image name."""
    from tests.helpers.custom_data import draw_masks

    monkeypatch.chdir(tmp_path)
    return draw_masks(tmp_path / 'regions', 12)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
