"""Networks for greyscale images are exported like others."""

import numpy as np
import pytest
from PIL import Image

from effvim import Predictor
from tests.helpers.cli import run_command
from tests.helpers.grey import save_grey

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.slow
def test_greyscale_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_grey()
    (tmp_path / 'images').mkdir()
    Image.fromarray(IMAGE).save('images/a.png')
    argv = ['grey.py', 'grey.pth', '--out', 'grey.onnx', '--images', 'images']
    assert run_command('export', argv) == 0
    expected, exported = (Predictor('grey.py', f'grey.{kind}')(IMAGE) for kind in ('pth', 'onnx'))
    np.testing.assert_allclose(exported.scores, expected.scores, atol=1e-3)
