"""The form of the network for runtimes against timm's port, with the same weights."""

import pytest
import timm
import torch
from torch import nn

from backbone import ARCHS, EfficientViM, EfficientViMClassifier
from backbone.convolutional import ConvolutionalBlock, convolutional, use_mean_norm
from backbone.layers import LayerNorm2d
from tests.helpers.networks import randomised, relative


def kinds(network):
    return {type(module) for module in network.modules()}


@pytest.mark.parametrize('mean_norm', [False, True])
@pytest.mark.parametrize('arch', ARCHS)
def test_features_equal_timm(arch, mean_norm):
    theirs = randomised(timm.create_model(f'efficientvim_{arch}')).eval()
    ours = EfficientViM(arch).eval()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    assert convolutional(ours.fuse()) is ours
    if mean_norm:
        use_mean_norm(ours)
    assert (LayerNorm2d in kinds(ours)) is not mean_norm
    for height, width in ((256, 256), (97, 131), (32, 96)):
        x = torch.randn(2, 3, height, width)
        with torch.inference_mode():
            expected = theirs.forward_intermediates(x, intermediates_only=True)
            for a, b in zip(ours(x), expected, strict=True):
                assert relative(a, b) <= 1e-5


def test_classifier_equals_timm():
    theirs = randomised(timm.create_model('efficientvim_m1')).eval()
    ours = EfficientViMClassifier('m1').eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert relative(convolutional(ours.fuse())(x), theirs(x)) <= 1e-5


@pytest.mark.parametrize('alpha', [-30, -8, 5, 12, 40])
def test_gates_near_0_and_1(alpha):
    network = randomised(EfficientViM('m1')).eval()
    with torch.no_grad():
        for block in network.stages[0].blocks:
            block.alpha[:, ::3] = alpha
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        expected = network.double()(x.double())
        outputs = convolutional(network.float().fuse())(x)
        for a, b in zip(outputs, expected, strict=True):
            assert a.isfinite().all() and relative(a.double(), b) <= 1e-5


def test_parts_that_cannot_be_folded_stay():
    network = randomised(EfficientViM('m1')).eval()
    network.stages[0].blocks[0].dwconv2.norm = nn.GroupNorm(1, 128)
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        expected = network(x)
        outputs = convolutional(network.fuse())(x)
        for a, b in zip(outputs, expected, strict=True):
            assert relative(a, b) <= 1e-5
    converted = [isinstance(b, ConvolutionalBlock) for s in network.stages for b in s.blocks]
    assert converted == [False, True, True, True, True, True]
