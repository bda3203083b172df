"""The network against timm's independent port, over every variant."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from backbone import ARCHS, HSMSSD, EfficientViM, UserError, feature_info
from backbone.layers import LayerNorm2d
from tests.helpers.networks import randomised, relative
from tests.helpers.paths import ROOT

SIZES = [(256, 256), (800, 1344), (801, 1001), (32, 96)]
# Facts of the paper's implementation: parameters of stem and stages, A counted.
PARAMETERS = {'m1': 5_713_534, 'm2': 12_489_022, 'm3': 15_029_034, 'm4': 18_031_365}


def pair(arch, dtype=torch.float32, **kwargs):
    """Ours and timm's with the same randomised weights, in evaluation mode."""
    theirs = randomised(timm.create_model(f'efficientvim_{arch}')).to(dtype).eval()
    ours = EfficientViM(arch, **kwargs).to(dtype).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    return ours, theirs


@pytest.mark.parametrize('size', SIZES, ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('arch', ARCHS)
def test_features_equal_timm(arch, size):
    ours, theirs = pair(arch)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        maps, expected = ours(x), theirs.forward_intermediates(x, intermediates_only=True)
        channels_last = ours(x.to(memory_format=torch.channels_last))
    for ours_map, other, theirs_map, info in zip(maps, channels_last, expected, ours.feature_info):
        height, width = (-(-s // info.stride) for s in size)
        assert ours_map.shape == (1, info.channels, height, width) == theirs_map.shape
        assert relative(ours_map, theirs_map) <= 1e-5
        assert relative(other, theirs_map) <= 1e-5


@pytest.mark.parametrize('size', [(256, 256), (97, 130)], ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('arch', ARCHS)
def test_map_of_the_stem_is_what_the_last_convolution_of_timms_stem_takes(arch, size):
    ours, theirs = pair(arch, out_stem=True)
    taken = []
    last = theirs.patch_embed.conv[-1]
    last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(x, intermediates_only=True)
        maps, folded = ours(x), ours.fuse()(x)
    assert ours.feature_info == feature_info(arch, out_stem=True)
    assert [i.stride for i in ours.feature_info] == [8, 16, 32, 64]
    for m, other, reference, info in zip(
        maps, folded, [*taken, *expected], ours.feature_info, strict=True
    ):
        assert m.shape == (1, info.channels, *(-(-s // info.stride) for s in size))
        assert relative(m, reference) <= 1e-5
        assert relative(other, reference) <= 1e-5


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('arch', ARCHS)
def test_gradients_equal_timm(arch, training):
    ours, theirs = pair(arch, torch.float64)
    ours.train(training)
    theirs.train(training)
    x = torch.randn(2, 3, 97, 130, dtype=torch.float64)
    weights = [torch.randn(s, dtype=torch.float64) for s in (1, 1, 1)]
    for maps in (ours(x), theirs.forward_intermediates(x, intermediates_only=True)):
        sum((m.square() * w).mean() for m, w in zip(maps, weights)).backward()
    expected = dict(theirs.named_parameters())
    trained = {n: p for n, p in ours.named_parameters() if not n.endswith('mixer.A')}
    scale = max(p.grad.abs().max() for p in trained.values())
    for name, parameter in trained.items():
        gap = (parameter.grad - expected[name].grad).abs().max() / scale
        assert gap <= 1e-9, name
        assert relative(parameter.grad, expected[name].grad) <= 1e-6 or gap <= 1e-12, name


@pytest.mark.parametrize('arch', ARCHS)
def test_parameters_and_info(arch):
    network = EfficientViM(arch)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[arch]
    assert feature_info(arch) == network.feature_info
    assert [i.stride for i in network.feature_info] == [16, 32, 64]


def test_cancelled_parameter_changes_nothing_and_is_not_trained():
    network = randomised(EfficientViM('m1')).eval()
    x = torch.randn(1, 3, 64, 96)
    before = network(x)
    for name, parameter in network.named_parameters():
        if name.endswith('mixer.A'):
            assert not parameter.requires_grad
            nn.init.uniform_(parameter, -50, 50)
    assert all(torch.equal(a, b) for a, b in zip(before, network(x)))


@pytest.mark.parametrize('indices', [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_out_indices_choose_maps_and_leave_no_idle_parameter(indices):
    torch.manual_seed(3)
    whole = randomised(EfficientViM('m1')).eval()
    partial = EfficientViM('m1', out_indices=indices).eval()
    partial.load_state_dict({n: whole.state_dict()[n] for n in partial.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    maps, chosen = whole(x), partial(x)
    assert all(torch.equal(m, maps[i]) for m, i in zip(chosen, indices, strict=True))
    sum(m.sum() for m in chosen).backward()
    idle = [n for n, p in partial.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.parametrize(
    'arguments',
    [
        dict(arch='m5'),
        dict(arch=dict(widths=(64,))),
        dict(out_indices=()),
        dict(out_indices=(1, 0)),
        dict(out_indices=(0, 0)),
        dict(out_indices=(0, 3)),
        dict(out_indices=(-1,)),
        dict(frozen_stages=4),
        dict(frozen_stages=-2),
        dict(drop_path_rate=1.0),
        dict(arch=dict(widths=(60, 64), depths=(1, 1), state_dims=(4, 4))),
        dict(arch=dict(widths=(64, 64), depths=(1,), state_dims=(4, 4))),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(UserError) as caught:
        EfficientViM(**arguments)
    assert next(iter(arguments)) in str(caught.value)
    with pytest.raises(TypeError):
        EfficientViM(depth=50)


def test_arch_of_ones_own():
    network = EfficientViM(dict(widths=(32, 48), depths=(1, 2), state_dims=(4, 9)), out_indices=[1])
    (out,) = network(torch.randn(2, 3, 70, 50))
    assert out.shape == (2, 48, 3, 2) and network.feature_info == ((48, 32),)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3])
def test_frozen_stages(frozen):
    network = EfficientViM('m1', frozen_stages=frozen).train()
    before = {n: v.clone() for n, v in network.state_dict().items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)  # moves whatever has a gradient
    loss = sum((m - 1).pow(3).mean() for m in network(torch.randn(2, 3, 160, 224)))
    if frozen < 3:
        loss.backward()
        optimiser.step()
    still = ('patch_embed', *(f'stages.{i}' for i in range(3)))[: frozen + 1]
    for name, value in network.state_dict().items():
        if name.endswith('mixer.A'):
            continue
        assert torch.equal(value, before[name]) == name.startswith(still or '/'), name


def test_norm_eval_keeps_statistics_and_trains_weights():
    network = EfficientViM('m1', norm_eval=True).train()
    assert network.training
    before = {n: v.clone() for n, v in network.named_buffers()}
    sum(m.square().mean() for m in network(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(v, before[n]) for n, v in network.named_buffers())
    assert network.patch_embed.conv[0].norm.weight.grad is not None


def test_checkpointing_recomputes_with_equal_gradients_and_statistics():
    calls = []
    results = []
    for with_cp in (False, True):
        torch.manual_seed(5)
        network = EfficientViM('m1', with_cp=with_cp, drop_path_rate=0.2).double().train()
        hook = network.stages[0].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        torch.manual_seed(6)
        x = torch.randn(3, 3, 64, 96, dtype=torch.float64)
        calls.clear()
        sum(m.square().mean() for m in network(x)).backward()
        assert len(calls) == 1 + with_cp
        hook.remove()
        results.append(network)
    plain, recomputed = results
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-12, atol=1e-15), name
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_close(dtype):
    network = randomised(EfficientViM('m1')).eval()
    x = torch.randn(1, 3, 97, 160)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast('cpu', dtype):
            rough = network(x)
    for a, b in zip(rough, exact):
        assert a.isfinite().all()
        assert (a.float() - b).norm() / b.norm() < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_autocast_trains():
    network = EfficientViM('m1').train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = sum(m.float().square().mean() for m in network(torch.randn(2, 3, 64, 64)))
    loss.backward()
    grads = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)


def hsm_ssd(mixer, x):
    """HSM-SSD by loops over images and states, from the formulas, with â in its place."""
    dim, height, width = x.shape[1:]
    n = mixer.A.numel()
    ys, hs = [], []
    for image in x:
        tokens = image.reshape(dim, -1)
        projected = (mixer.BCdt_proj.conv.weight[..., 0] @ tokens).reshape(1, 3 * n, height, width)
        b, c, dt = mixer.dw.conv(projected).reshape(3, n, height * width)
        h_in = torch.stack(
            [(tokens * (torch.softmax(dt[i] + mixer.A[i], 0) * b[i])).sum(1) for i in range(n)], 1
        )
        h, z = (mixer.hz_proj.conv.weight[..., 0] @ h_in).chunk(2)
        h = mixer.out_proj.conv.weight[..., 0] @ (h * z * torch.sigmoid(z) + mixer.D * h)
        ys.append((h @ c).reshape(dim, height, width))
        hs.append(h)
    return torch.stack(ys), torch.stack(hs)


@pytest.mark.parametrize('expand', [0.5, 1, 2])
def test_mixer_alone_equals_the_formulas(expand):
    mixer = HSMSSD(24, state_dim=5, expand=expand).double()
    nn.init.normal_(mixer.D)
    x = torch.randn(2, 24, 7, 4, dtype=torch.float64)
    for ours, expected in zip(mixer(x), hsm_ssd(mixer, x)):
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= 1e-12


@pytest.mark.parametrize('expand', [1, 2])
def test_mixer_equals_timm(expand):
    from timm.models.efficientvim import HSMSSD as TimmHSMSSD

    theirs = TimmHSMSSD(32, ssd_expand=expand, state_dim=9)
    ours = HSMSSD(32, 9, expand)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 32, 9, 5)
    for a, b in zip(ours(x), theirs(x)):
        assert relative(a, b) <= 1e-5


def test_mixer_in_another_network_learns():
    """The example of docs/integration.md: a residual mixer inside a network of one's own."""

    class Mixed(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.norm = LayerNorm2d(channels)
            self.mixer = HSMSSD(channels, state_dim=8, expand=2)

        def forward(self, x):
            y, _ = self.mixer(self.norm(x))
            return x + y

    network = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), Mixed(16), nn.Conv2d(16, 1, 1))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    x = torch.randn(4, 3, 16, 20)
    target = x.mean((1, 2, 3), keepdim=True).expand(-1, 1, 8, 10)  # a global quantity
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(network(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_network_alone_imports_no_openmmlab():
    code = (
        'import sys, backbone, backbone.imagenet, backbone.weights; '
        'print([m for m in sys.modules if m[:4] in ("mmcv", "mmen", "mmde", "mmse")])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_names_load_torch_when_they_are_used():
    code = """
import pickle, sys
import backbone
from backbone.errors import UserError
assert not {'torch', 'timm', 'numpy'} & sys.modules.keys()
assert backbone.UserError is UserError and set(backbone.__all__) <= set(dir(backbone))
from backbone import *
assert 'torch' in sys.modules and backbone.EfficientViM is EfficientViM
assert EfficientViM.__module__ == 'backbone.efficientvim'
assert pickle.loads(pickle.dumps(FeatureInfo(3, 4))) == FeatureInfo(3, 4)
try:
    backbone.nonsense
except AttributeError as error:
    assert "module 'backbone' has no attribute 'nonsense'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
