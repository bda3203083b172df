"""Fixtures of the network's tests."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from backbone import linear


@pytest.fixture(scope='session')
def imagenet_root(tmp_path_factory):
    """Seven classes of three images of several sizes, modes and formats."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for i in range(21):
        mode, suffix = [('RGB', 'jpg'), ('L', 'png'), ('RGBA', 'png'), ('RGB', 'JPEG')][i % 4]
        width, height = rng.integers(50, 200, 2)
        blocks = rng.integers(0, 256, (5, 5, len(mode)), np.uint8).squeeze()
        directory = root / f'n{i % 7:08}'
        directory.mkdir(exist_ok=True)
        Image.fromarray(blocks, mode).resize((width, height)).save(directory / f'{i}.{suffix}')
    return root


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """An empty working directory, removed afterwards: the files are large."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def fresh_dynamo():
    """No graphs of other tests, before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request):
    """Every kind of device."""
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a GPU that PyTorch can use')
    return request.param


@pytest.fixture
def onednn_calls(monkeypatch):
    """The inputs of oneDNN's products, which small ones take as well; none without oneDNN."""
    calls, product = [], linear.onednn_linear

    def counted(x, *rest):
        calls.append(x)
        return product(x, *rest)

    if product is not None:
        monkeypatch.setattr(linear, 'onednn_linear', counted)
    monkeypatch.setattr(linear, 'SMALLEST_PRODUCT', 0)
    return calls
