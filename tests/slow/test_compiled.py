"""torch.compile with its default backend: equal maps and gradients, a benchmark of its forms."""

import shutil

import pytest
import torch

from backbone import EfficientViM
from effvim.benchmark import timing
from tests.helpers.benchmark_runs import run
from tests.helpers.networks import gradients, randomised, relative


@pytest.mark.skipif(
    not shutil.which('g++'), reason='torch.compile needs a C++ compiler: no g++ here'
)
@pytest.mark.slow
@pytest.mark.parametrize('form', ['fused', 'eval', 'train'])
def test_compiled_equals_eager(form):
    network = randomised(EfficientViM('m1', norm_eval=True)).train(form == 'train')
    if form == 'fused':
        network.fuse()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=True)
    for height, width in [(160, 128), (97, 201)]:
        x = torch.randn(2, 3, height, width)
        maps, expected = compiled(x), network(x)
        for a, b in zip(maps, expected):
            assert relative(a, b) <= 1e-5
        if form == 'train':
            actual, expected = gradients(network, maps), gradients(network, expected)
            for name, grad in actual.items():
                assert (grad - expected[name]).norm() <= 5e-4 * expected[name].norm(), name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='no compiler')
def test_compiled_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, 'MIN_RUN_TIME', 0)  # one call a round
    monkeypatch.setattr(timing, 'MATRIX_SIDE', 64)
    results, _ = run(
        tmp_path,
        'backbone',
        'test_efficientnet',
        '--forms',
        'plain',
        'compiled',
        'dynamic',
        '--sizes',
        '32',
        '48',
        '--rounds',
        '1',
    )
    first = {(c['form'], c['height']): c['first_s'] for c in results['cases']}
    assert len(first) == 6 and not results['failed']
    for size in (32, 48):
        assert first['compiled', size] > 10 * first['plain', size]  # for each size anew
    assert len({c['macs'] for c in results['cases'] if c['height'] == 48}) == 1
