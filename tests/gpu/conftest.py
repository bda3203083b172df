"""Fixtures of the tests that need a GPU; without one they are skipped."""

import pytest
import torch

from effvim.datasets import synthetic


@pytest.fixture(scope='session')
def gpu():
    """The GPU."""
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU that PyTorch can use')
    return torch.device('cuda')


@pytest.fixture(params=[False, True], ids=['float32', 'TF32'])
def tolerance(request, gpu):
    """Switches TF32 off or on; the relative difference that its rounding explains."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [each.allow_tf32 for each in settings]
    for each in settings:
        each.allow_tf32 = request.param
    yield 2e-2 if request.param else 1e-4
    for each, value in zip(settings, before):
        each.allow_tf32 = value


@pytest.fixture(scope='session')
def roots(gpu, tmp_path_factory):
    """Synthetic datasets of 160 × 160 pixels by task."""
    folder = tmp_path_factory.mktemp('datasets')
    coco = synthetic.draw_coco(folder / 'coco', num_train=256, num_val=16, size=160)
    ade = synthetic.draw_ade(folder / 'ade', num_train=256, num_val=16, size=160)
    return {'retinanet': coco, 'mask_rcnn': coco, 'semfpn': ade}
