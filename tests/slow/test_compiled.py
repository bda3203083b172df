"""torch.compile with its default backend: equal maps and gradients."""

import shutil

import pytest
import torch

from backbone import EfficientViM
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
