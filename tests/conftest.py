"""Where the real pictures are, and the networks that several tests compare."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get('EFFVIM_DATA', ROOT / '../shared/data'))


@pytest.fixture(scope='session')
def coco_root() -> Path:
    """Real COCO pictures and annotations."""
    if not (DATA / 'coco/annotations').is_dir():
        pytest.skip(f'no COCO sample in {DATA}; set EFFVIM_DATA')
    return (DATA / 'coco').resolve()


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
            elif name.endswith('alpha'):
                value.copy_(4 * noise - 2)
            elif name.endswith(('norm.weight', '.D')):
                value.copy_(0.5 + noise)
            elif name.endswith(('running_mean', 'norm.bias')):
                value.copy_(noise - 0.5)
    return network
