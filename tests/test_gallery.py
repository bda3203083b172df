"""Every file in configs/gallery/: one step of training, one evaluation."""

import math

import pytest
import torch
from conftest import ROOT
from test_every_config import built, roots  # noqa: F401

GALLERY = sorted((ROOT / 'configs/gallery').glob('*.py'))


def test_as_many_as_there_should_be():
    kinds = [path.read_text().count('semfpn_effvim') > 0 for path in GALLERY]
    assert kinds.count(False) >= 6 and kinds.count(True) >= 4


@pytest.mark.parametrize('path', GALLERY, ids=lambda p: p.stem)
def test_builds_steps_and_evaluates(path, roots, tmp_path):  # noqa: F811
    running = built(path, roots, tmp_path)
    model = running.model.train()
    data = model.data_preprocessor(next(iter(running.train_dataloader)), training=True)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert len(parts) >= 2 and all(math.isfinite(float(v)) for v in parts.values()), parts
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    trained = [n for n, p in model.named_parameters() if p.requires_grad and 'backbone' in n]
    used = [n for n in trained if n in grads and grads[n].abs().max() > 0]
    # of a head on one or two of the maps the later stages have no part
    assert len(used) > len(trained) / 2, len(used)
    metrics = running.test()
    assert metrics and all(math.isfinite(float(v)) for v in metrics.values()), metrics
