"""Where the real pictures are, and the networks that several tests compare."""

import functools
import os
from pathlib import Path

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # two of them on two cores; read when torch is imported
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault('MKL_CBWR', 'AUTO')  # as effvim.cli.run does, before the first matmul
DATA = Path(os.environ.get('EFFVIM_DATA', ROOT / '../shared/data'))


@pytest.fixture(scope='session')
def coco_root() -> Path:
    """Real COCO pictures and annotations."""
    if not (DATA / 'coco/annotations').is_dir():
        pytest.skip(f'no COCO sample in {DATA}; set EFFVIM_DATA')
    return (DATA / 'coco').resolve()


@pytest.fixture(scope='session')
def ade_root() -> Path:
    """Real ADE20K pictures and annotations."""
    root = DATA / 'ade/ADEChallengeData2016'
    if not (root / 'annotations').is_dir():
        pytest.skip(f'no ADE20K sample in {DATA}; set EFFVIM_DATA')
    return root.resolve()


@pytest.fixture(scope='session')
def run_of(tmp_path_factory):
    """Small trained runs by kind, see runs.py; each is made once."""
    from runs import Run

    return functools.cache(lambda kind: Run(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """Twelve pictures as a YOLO data set in ./shapes; what is in them by name."""
    from own_data import draw_yolo

    monkeypatch.chdir(tmp_path)
    return draw_yolo(tmp_path / 'shapes', 12)


@pytest.fixture
def regions(tmp_path, monkeypatch):
    """Twelve pictures with masks in ./regions; the masks by name."""
    from own_data import draw_masks

    monkeypatch.chdir(tmp_path)
    return draw_masks(tmp_path / 'regions', 12)


def assert_equals_pycocotools(numbers: dict, truth: Path, found: Path, kind: str) -> None:
    """The twelve numbers of `kind`, bbox or segm, against COCO's own code, ≤ 1e-9."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    api = COCO(str(truth))
    detections = api.loadRes(str(found))
    assert len(detections.anns) > 1000
    evaluation = COCOeval(api, detections, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    # at most 100 detections an image: recall at mmdet's 300 and 1000 is COCO's at 100
    names += ['AR@100', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']
    for name, expected in zip(names, [*evaluation.stats[:6], *evaluation.stats[8:]]):
        assert abs(numbers[f'coco/{kind}_{name}'] - expected) <= 1e-9, name


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Every parameter and statistic moved off its initial value, so that nothing can hide."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith('running_var'):
                value.copy_(0.5 + noise)
            elif name.startswith(('weights', 'norm.', 'heads')):  # the classifier's
                value.add_(noise - 0.5)
            elif name.endswith('alpha'):
                value.copy_(4 * noise - 2)
            elif name.endswith(('norm.weight', '.D')):
                value.copy_(0.5 + noise)
            elif name.endswith(('running_mean', 'norm.bias')):
                value.copy_(noise - 0.5)
    return network
