"""The neck against a plain restatement of the published description."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

import mmdet_plugin  # noqa: F401
from backbone import ARCHS, UserError, feature_info
from tests.helpers.networks import randomised

CHANNELS = [224, 320, 512]
# The published totals with M4's widths.
PARAMETERS = {(1, 5): 4_075_840, (2, 5): 3_748_416}


def build(**kwargs):
    neck = MODELS.build(dict(type='EfficientViMFPN', **kwargs))
    neck.init_weights()
    return neck


def restated(neck, inputs):
    """The neck in the words of the published configs, from its weights by name."""
    w = neck.state_dict()

    def conv(name, x, **kwargs):
        return F.conv2d(x, w[f'{name}.conv.weight'], w[f'{name}.conv.bias'], **kwargs)

    def norm(i, x):
        mean = x.mean(1, keepdim=True)
        var = x.var(1, unbiased=False, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-5)
        return x * w[f'norms.{i}.weight'].view(1, -1, 1, 1) + w[f'norms.{i}.bias'].view(1, -1, 1, 1)

    inputs = [norm(i, x) for i, x in enumerate(inputs)]
    p16, p32, p64 = (conv(f'lateral_convs.{i}', x) for i, x in enumerate(inputs))
    p32 = p32 + F.interpolate(p64, p32.shape[2:], mode='nearest')
    p16 = p16 + F.interpolate(p32, p16.shape[2:], mode='nearest')
    outs = [conv(f'fpn_convs.{i}', x, padding=1) for i, x in enumerate((p16, p32, p64))]
    levels = len(neck.extra_trans_convs)
    up = p16
    for i in range(levels):  # stride 8, then stride 4; the finest output is extra_fpn_convs.0
        name = f'extra_trans_convs.{i}.conv'
        up = F.conv_transpose2d(up, w[f'{name}.weight'], w[f'{name}.bias'], stride=2)
        outs.insert(0, conv(f'extra_fpn_convs.{levels - 1 - i}', up, padding=1))
    coarser = inputs[-1]
    for i in range(3, len(neck.fpn_convs)):
        coarser = conv(f'fpn_convs.{i}', coarser, stride=2, padding=1)
        outs.append(coarser)
    return outs


@pytest.mark.parametrize('size', [(256, 256), (97, 163), (32, 32)], ids=str)
@pytest.mark.parametrize('levels, outs', [(0, 3), (0, 5), (1, 4), (1, 5), (1, 6), (2, 5), (2, 6)])
def test_equals_the_description(levels, outs, size):
    neck = randomised(
        build(in_channels=[16, 24, 40], out_channels=8, num_transposed=levels, num_outs=outs)
    )
    shapes = [[-(-s // stride) for s in size] for stride in (16, 32, 64)]
    inputs = [torch.randn(2, c, *s) for c, s in zip((16, 24, 40), shapes)]
    got, expected = neck(inputs), restated(neck, inputs)
    assert len(got) == len(expected) == outs
    for a, b in zip(got, expected):
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize('levels, outs', PARAMETERS)
def test_published_parameters_and_initialisation(levels, outs):
    neck = build(in_channels=CHANNELS, num_transposed=levels, num_outs=outs)
    assert sum(p.numel() for p in neck.parameters()) == PARAMETERS[levels, outs]
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / (module.weight[0].numel() + module.weight[:, 0].numel())) ** 0.5
            assert 0.99 * bound < module.weight.abs().max() <= bound
        if isinstance(module, nn.ConvTranspose2d):
            # Kaiming over PyTorch's fan out of a transposed weight (in, out, 2, 2)
            assert module.weight.std().item() == pytest.approx((2 / (256 * 4)) ** 0.5, rel=0.02)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert not module.bias.any()


def test_group_norm_follows_every_convolution_but_the_transposed():
    neck = build(in_channels=CHANNELS, norm_cfg=dict(type='GN', num_groups=32))
    assert sum(isinstance(m, nn.GroupNorm) for m in neck.modules()) == 3 + 3 + 1 + 1
    maps = [torch.randn(1, c, 4 // 2**i, 4 // 2**i) for i, c in enumerate(CHANNELS)]
    assert [m.shape[2] for m in neck(maps)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize('arch', ARCHS)
def test_maps_of_another_variant_are_named(arch):
    channels = [i.channels for i in feature_info(arch)]
    neck = build(in_channels=[c + 8 for c in channels])
    maps = [torch.randn(1, c, 2, 2) for c in channels]
    with pytest.raises(UserError) as caught:
        neck(maps)
    assert str(channels) in str(caught.value) and str([c + 8 for c in channels]) in str(
        caught.value
    )


@pytest.mark.parametrize(
    'wrong',
    [dict(num_transposed=3), dict(num_transposed=-1), dict(num_outs=3), dict(in_channels=[])],
    ids=str,
)
def test_wrong_arguments(wrong):
    with pytest.raises(UserError):
        build(**{'in_channels': CHANNELS, **wrong})
