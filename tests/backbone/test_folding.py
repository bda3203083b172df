"""Folded networks against timm's port and against the same network unfolded."""

import copy

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmdet_plugin  # noqa: F401
import mmseg_plugin  # noqa: F401
from backbone import ARCHS, EfficientViM, EfficientViMClassifier, UserError
from backbone.convolutional import convolutional
from backbone.layers import ConvNorm
from tests.helpers.networks import gradients, randomised, relative
from tests.helpers.paths import ROOT

SIZES = [(arch, 256, 256) for arch in ARCHS]
SIZES += [('m4', 800, 1344), *((arch, 801, 1001) for arch in ('m1', 'm3'))]
SIZES += [(arch, 32, 96) for arch in ARCHS]


def pair(arch, dtype=torch.float32, **kwargs):
    """Ours and timm's with the same randomised weights, in evaluation mode."""
    theirs = (
        randomised(
            timm.create_model(
                f'efficientvim_{arch}', drop_path_rate=kwargs.get('drop_path_rate', 0.0)
            )
        )
        .to(dtype)
        .eval()
    )
    ours = EfficientViM(arch, **kwargs).to(dtype).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})
    return ours, theirs


def maps_of(theirs, x):
    return theirs.forward_intermediates(x, intermediates_only=True)


@pytest.mark.parametrize(('arch', 'height', 'width'), SIZES)
def test_folded_features_equal_timm(arch, height, width):
    ours, theirs = pair(arch)
    x = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        expected = maps_of(theirs, x)
        assert ours.fuse() is ours
        for given in (x, x.to(memory_format=torch.channels_last)):
            for a, b in zip(ours(given), expected, strict=True):
                assert a.shape == b.shape and relative(a, b) <= 1e-5


@pytest.mark.parametrize('distillation', [False, True], ids=['', 'dist'])
@pytest.mark.parametrize('arch', ARCHS)
def test_folded_classifier_equals_timm(arch, distillation):
    theirs = randomised(timm.create_model(f'efficientvim_{arch}' + '_dist' * distillation)).eval()
    ours = EfficientViMClassifier(arch, distillation=distillation)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 97, 130)
    with torch.inference_mode():
        _, states = ours.eval().forward_stages(x)
        assert ours.fuse() is ours
        assert relative(ours(x), theirs(x)) <= 1e-5
        for a, b in zip(ours.forward_stages(x)[1], states):  # not scaled by the gate
            assert a.shape == b.shape and relative(a, b) <= 1e-5


def test_activations_of_another_tool_fold_as_they_compute(monkeypatch):
    network = randomised(EfficientViM('m1')).eval()
    network.stages[0].blocks[0].ffn.fc1.act = nn.GELU()
    network.stages[0].downsample.conv[0].act = nn.GELU()
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        maps = network(x)
        with monkeypatch.context() as layer_by_layer:
            layer_by_layer.setattr(ConvNorm, 'foldable', False)
            expected = network(x)
        fused = network.fuse()
        for form in (maps, fused(x), convolutional(fused)(x)):
            for a, b in zip(form, expected, strict=True):
                assert relative(a, b) <= 1e-5


def test_nothing_is_left_to_fold():
    network = EfficientViMClassifier('m1').fuse()
    kinds = {type(m) for m in network.modules()}
    assert nn.BatchNorm2d not in kinds
    assert not any(name.endswith('alpha') for name, _ in network.named_parameters())
    assert not any(p.requires_grad for p in network.parameters())
    x = torch.randn(1, 3, 64, 64)
    before = network(x)
    assert torch.equal(network.fuse()(x), before)  # a second time changes nothing


def test_folded_networks_are_not_trained():
    network = EfficientViM('m1', with_cp=True).fuse()
    assert not network.training and network.eval() is network
    with pytest.raises(UserError, match='folded'):
        network.train()
    with pytest.raises(UserError, match='folded'):
        nn.Sequential(network, nn.ReLU()).train()


@pytest.mark.parametrize('with_cp', [False, True], ids=['', 'cp'])
@pytest.mark.parametrize('arch', ARCHS)
def test_folded_training_has_the_gradients_of_timm(arch, with_cp):
    for dtype in (torch.float64, torch.float32):
        ours, theirs = pair(arch, dtype, norm_eval=True, with_cp=with_cp)
        x = torch.randn(2, 3, 97, 130, dtype=dtype)
        ours.train()
        actual, expected = gradients(ours, ours(x)), gradients(theirs, maps_of(theirs, x))
        assert set(actual) == {n for n, p in ours.named_parameters() if not n.endswith('mixer.A')}
        gaps = {n: (grad - expected[n]).norm() / expected[n].norm() for n, grad in actual.items()}
        if dtype == torch.float64:
            assert max(gaps.values()) <= 1e-9, max(gaps, key=gaps.get)
        else:  # as a whole: a ReLU on the edge that falls the other way moves single tensors
            gap, norm = (
                sum(g.square().sum() for g in grads)
                for grads in ([grad - expected[n] for n, grad in actual.items()], expected.values())
            )
            assert gap.sqrt() <= 5e-4 * norm.sqrt()


def test_folded_training_with_stochastic_depth_equals_timm():
    ours, theirs = pair('m1', torch.float64, norm_eval=True, drop_path_rate=0.5)
    ours.train()
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x = torch.randn(6, 3, 64, 96, dtype=torch.float64)
    results = []
    for network, forward in ((ours, ours), (theirs, lambda x: maps_of(theirs, x))):
        torch.manual_seed(4)
        maps = forward(x)
        results.append((maps, gradients(network, maps)))
    (maps, actual), (expected_maps, expected) = results
    without = ours.eval()(x)
    for a, b, c in zip(maps, expected_maps, without):
        assert relative(a, b) <= 1e-7 and relative(a, c) > 0.1  # timm's rates are float32
    for name, grad in actual.items():
        assert (grad - expected[name]).norm() <= 1e-6 * expected[name].norm(), name


@pytest.mark.parametrize('frozen', [1, 3])
def test_frozen_parts_are_folded_too(frozen):
    ours, theirs = pair('m1', torch.float64, frozen_stages=frozen, norm_eval=True)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    ours.train()
    for a, b in zip(ours(x), maps_of(theirs, x)):
        assert relative(a, b) <= 1e-12
        assert a.requires_grad == (frozen < 3 and len(a.shape) == 4 and a.shape[1] > 128)


def saved_bytes(forward, x):
    """Memory that the backward pass will need, each storage counted once."""
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(storages.values())


def test_folded_training_saves_memory():
    ours, theirs = pair('m4', norm_eval=True)
    x = torch.randn(2, 3, 512, 512)
    assert saved_bytes(ours.train(), x) <= 0.70 * saved_bytes(lambda x: maps_of(theirs, x), x)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('alpha', [-30.0, 0.0, 12.0, 30.0])
def test_low_precision_survives_any_gate(dtype, alpha):
    """At 12 the share that remains of x is below float16's smallest step, at 30 it is 0 exactly."""
    network = randomised(EfficientViM('m1')).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith('alpha'):
                value.fill_(alpha)
    x = torch.randn(1, 3, 97, 160)
    with torch.inference_mode():
        expected = network(x)
        rough = network.fuse().to(dtype)(x.to(dtype))
    for a, b in zip(rough, expected):
        assert a.dtype == dtype and a.isfinite().all()
        assert (a.float() - b).norm() / b.norm() < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize('fused', [False, True], ids=['', 'fused'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, fused):
    network = randomised(EfficientViM('m1', norm_eval=True)).train()
    exact = network(torch.randn(1, 3, 97, 160, generator=torch.Generator().manual_seed(5)))
    if fused:
        network.fuse()
    with torch.autocast('cpu', dtype):
        rough = network(torch.randn(1, 3, 97, 160, generator=torch.Generator().manual_seed(5)))
    for a, b in zip(rough, exact):
        assert (a.float() - b).norm() / b.norm() < (0.05 if dtype == torch.bfloat16 else 0.01)
    if not fused:
        actual, expected = gradients(network, rough), gradients(network, exact)
        for name, grad in actual.items():
            assert grad.dtype == torch.float32 and grad.isfinite().all(), name
            direction = nn.functional.cosine_similarity(grad.flatten(), expected[name].flatten(), 0)
            assert direction > 0.95, (name, direction)


def test_conv_bn_folded_by_another_tool():
    """mmcv's `fuse_conv_bn`, which mmdet's own benchmark calls, takes the BN layers away."""
    from mmcv.cnn import fuse_conv_bn

    network = randomised(EfficientViM('m1')).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = network(x)
        actual = fuse_conv_bn(copy.deepcopy(network))(x)
    assert all(relative(a, b) <= 1e-5 for a, b in zip(actual, expected))


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda p: p.stem)
def test_folded_detectors_and_segmentors_are_equal(path):
    from effvim.inference.folding import fuse

    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model = randomised(model).train().eval()
    divisor = cfg.model.data_preprocessor.get('pad_size_divisor', 1)
    x = torch.randn(1, 3, 128, 160 + -160 % divisor)

    def outputs():
        maps = model.extract_feat(x)
        head = next(
            getattr(model, name)
            for name in ('bbox_head', 'rpn_head', 'decode_head')
            if hasattr(model, name)
        )
        output = head(maps)
        if isinstance(output, torch.Tensor):
            return [output]
        return [tensor for level in output for tensor in level]

    with torch.inference_mode():
        expected = outputs()
        assert fuse(model) is model
        for a, b in zip(outputs(), expected, strict=True):
            assert relative(a, b) <= 1e-5
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    with pytest.raises(UserError, match='folded'):
        model.train()


@pytest.mark.usefixtures('fresh_dynamo')
@pytest.mark.parametrize('form', ['fused', 'eval', 'train'])
def test_no_graph_breaks(form):
    """One graph, which then serves every size whose coarsest map has more than one row."""
    from torch._dynamo.testing import CompileCounter

    network = randomised(EfficientViM('m1', norm_eval=True, out_stem=True))
    network.train(form == 'train')
    if form == 'fused':
        network.fuse()
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True, dynamic=True)
    for height, width in [(160, 128), (97, 201), (288, 224), (352, 480)]:
        x = torch.randn(2, 3, height, width)
        for a, b in zip(compiled(x), network(x)):
            assert relative(a, b) <= 1e-6
    assert counter.frame_count == 1
