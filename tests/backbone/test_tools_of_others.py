"""Tracing, scripting, function transforms, FLOP counters and other tools on a network."""

import io

import pytest
import timm
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from backbone import ARCHS, EfficientViM, EfficientViMClassifier, UserError
from tests.helpers.networks import gradients, randomised, relative

FORMS = ['train', 'eval', 'fused']


def network_in(form, kind=EfficientViM, arch='m1', **options):
    torch.manual_seed(0)
    network = randomised(kind(arch, **options)).train(form == 'train')
    return network.fuse() if form == 'fused' else network


def images(batch=2, height=96, width=64):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert relative(a, b) <= 1e-5


@pytest.mark.parametrize('out_stem', [False, True], ids=['', 'stem'])
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
def test_trace_and_save(form, out_stem):
    network, x = network_in(form, out_stem=out_stem), images()
    traced = torch.jit.trace(network, x, check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    assert_equal(torch.jit.load(buffer)(x), network_in(form, out_stem=out_stem)(x))


@pytest.mark.parametrize('form', ['eval', 'fused'])
@pytest.mark.parametrize('distillation', [False, True])
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
def test_script(form, distillation):
    for network in (
        network_in(form),
        network_in(form, out_stem=True),
        network_in(form, EfficientViMClassifier, distillation=distillation),
    ):
        scripted = torch.jit.script(network)
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
        for x in (images(), images(1, 70, 130)):
            with torch.inference_mode():
                actual, expected = loaded(x), network(x)
            if isinstance(expected, torch.Tensor):
                actual, expected = [actual], [expected]
            assert_equal(actual, expected)
        assert network.fused == (form == 'fused')  # the network itself is left as it was


@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
def test_script_in_training_is_refused():
    with pytest.raises(UserError, match='eval'):
        torch.jit.script(EfficientViM('m1').train())


@pytest.mark.parametrize('out_stem', [False, True], ids=['', 'stem'])
@pytest.mark.parametrize('form', FORMS)
def test_symbolic_trace(form, out_stem):
    graph = torch.fx.symbolic_trace(network_in(form, out_stem=out_stem))
    for x in (images(), images(3, 70, 130)):
        assert_equal(graph(x), network_in(form, out_stem=out_stem)(x))


def test_feature_extractor():
    network = network_in('eval')
    nodes = {f'stages.{i}.blocks.1.ffn': f'map {i}' for i in (0, 2)}
    extractor = create_feature_extractor(network, nodes)
    maps = extractor.eval()(images())
    assert_equal(maps.values(), [network(images())[i] for i in (0, 2)])


@pytest.mark.parametrize('norm_eval', [True, False])
def test_functional_transforms(norm_eval):
    """`grad` equals a backward pass, `vmap` over samples equals one sample at a time."""
    network = randomised(EfficientViM('m1', norm_eval=norm_eval)).double().train(norm_eval)
    x = images().double()
    parameters = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}

    def loss(parameters, image):
        maps = torch.func.functional_call(network, parameters, (image[None],))
        return sum(m.square().mean() for m in maps)

    def plain(image):
        network.zero_grad()
        loss(dict(network.named_parameters()), image).backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    singles = [plain(image) for image in x]
    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, expected in enumerate(singles):
        alone = torch.func.grad(loss)(parameters, x[i])
        for name, value in expected.items():
            for actual in (alone[name], together[name][i]):
                assert torch.allclose(actual, value, rtol=1e-9, atol=1e-12), name


@pytest.mark.usefixtures('fresh_dynamo')
@pytest.mark.parametrize('norm_eval', [True, False])
def test_compiled_checkpointing(norm_eval):
    """One graph, with the gradients and BN statistics of a network that keeps its activations."""
    results = []
    for with_cp in (False, True):
        network = network_in('train', with_cp=with_cp, norm_eval=norm_eval)
        run = torch.compile(network, backend='aot_eager', fullgraph=True) if with_cp else network
        grads = gradients(network, run(images()))
        results.append((grads, dict(network.named_buffers())))
    (grads, buffers), (grads_cp, buffers_cp) = results
    assert grads.keys() == grads_cp.keys()
    scale = max(g.abs().max() for g in grads.values())  # some are 0 up to rounding
    assert all(torch.allclose(grads_cp[n], g, 1e-4, 1e-6 * scale) for n, g in grads.items())
    assert all(torch.allclose(buffers_cp[n].double(), b.double()) for n, b in buffers.items())


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_mmengines_flop_counter_counts_every_product(arch):
    """As many multiply-adds for the trained form as for the folded one, and as in the paper."""
    from mmengine.analysis import get_model_complexity_info

    size = (3, 256, 256) if arch == 'm4' else (3, 224, 224)
    counts = [
        get_model_complexity_info(
            network_in(form, EfficientViMClassifier, arch), size, show_table=False, show_arch=False
        )['flops']
        for form in ('eval', 'fused')
    ]
    published = dict(m1=239, m2=355, m3=656, m4=1111)[arch]  # paper, table of variants
    assert counts[0] == counts[1] and counts[0] / 1e6 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize('kind', ['group norm', 'none', 'frozen', 'plain', 'no statistics', 'sync'])
def test_folding_after_norms_were_replaced(kind):
    """`fuse()` changes no output, whatever other tools have put in the place of BN."""
    from torchvision.ops.misc import FrozenBatchNorm2d

    def replacement(norm):
        channels = norm.num_features
        if kind == 'frozen':
            frozen = FrozenBatchNorm2d(channels, norm.eps)
            frozen.load_state_dict(norm.state_dict(), strict=False)
            return frozen
        if kind == 'plain':
            return nn.BatchNorm2d(channels, affine=False)
        if kind == 'no statistics':
            return nn.BatchNorm2d(channels, track_running_stats=False)
        return nn.GroupNorm(4, channels) if kind == 'group norm' else nn.Identity()

    network = randomised(EfficientViM('m1'))
    if kind == 'sync':
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, replacement(child))
    network = randomised(network).eval()
    with torch.inference_mode():
        expected = network(images())
        assert_equal(network.fuse()(images()), expected)


def test_checkpointing_counts_synchronised_statistics_once():
    results = []
    for with_cp in (False, True):
        network = network_in('train', with_cp=with_cp)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network).double().train()
        sum(m.square().mean() for m in network(images(3).double())).backward()
        results.append(dict(network.named_buffers()))
    plain, recomputed = results
    assert any(n.endswith('num_batches_tracked') for n in plain)
    assert all(torch.equal(recomputed[n], value) for n, value in plain.items())


@pytest.mark.parametrize('distillation', [False, True])
def test_classifier_as_timms_models(distillation):
    name = 'efficientvim_m1' + '_dist' * distillation
    theirs = randomised(timm.create_model(name)).eval()
    ours = EfficientViMClassifier('m1', distillation=distillation).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images()
    with torch.inference_mode():
        assert_equal(ours.forward_features(x), theirs.forward_features(x))
        for pre_logits in (False, True):
            head, expected = (
                m.forward_head(m.forward_features(x), pre_logits) for m in (ours, theirs)
            )
            assert_equal([head], [expected])
        for options in (
            {},
            {'indices': 2},
            {'indices': [0, 2], 'norm': True},
            {'indices': [1], 'stop_early': True, 'intermediates_only': True},
        ):
            actual, expected = (m.forward_intermediates(x, **options) for m in (ours, theirs))
            if not options.get('intermediates_only'):
                assert_equal(actual[0], expected[0])
                actual, expected = actual[1], expected[1]
            assert_equal(actual, expected)
        for classes in (5, 0):
            for m in (ours, theirs):
                m.reset_classifier(classes)
            assert ours(x).shape == theirs(x).shape
        assert ours.num_features == theirs.num_features
        assert_equal([ours(x)], [theirs(x)])
    bare = EfficientViMClassifier('m1', num_classes=0, distillation=distillation).eval()
    bare.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert_equal([bare.fuse()(x)], [theirs(x)])


@pytest.mark.parametrize('shape', [(0, 3, 64, 64), (2, 3, 0, 64), (2, 3, 64, 0)])
@pytest.mark.parametrize('form', FORMS)
def test_nothing_to_look_at_is_named(shape, form):
    with pytest.raises(UserError, match='at least one image of one pixel'):
        network_in(form)(torch.zeros(shape))
