"""Every file in configs/gallery/: one step of training, one evaluation."""

import math

import pytest
import torch

from tests.config.test_every_config import built, roots  # noqa: F401
from tests.helpers.paths import ROOT

FOLDER = ROOT / 'configs/gallery'
GALLERY = sorted(FOLDER.glob('*.py'))


def test_as_many_as_there_should_be():
    kinds = [path.read_text().count('semfpn_effvim') > 0 for path in GALLERY]
    assert kinds.count(False) >= 6 and kinds.count(True) >= 4


@pytest.mark.parametrize('path', [*GALLERY, FOLDER / 'README.md'], ids=lambda p: p.stem)
def test_builds_steps_and_evaluates(path, roots, tmp_path):  # noqa: F811
    if path.suffix == '.md':  # the config that it shows
        text = path.read_text().split('```python\n')[1].split('```')[0]
        path = tmp_path / 'own.py'
        path.write_text(text.replace('..', str(FOLDER.parent)))
    running = built(path, roots, tmp_path)
    model = running.model.train()
    model.init_weights()  # Deformable DETR's level embedding is memory as it was found before
    data = model.data_preprocessor(next(iter(running.train_dataloader)), training=True)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert len(parts) >= 2 and all(math.isfinite(float(v)) for v in parts.values()), parts
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    metrics = running.test()
    assert metrics and all(math.isfinite(float(v)) for v in metrics.values()), metrics
