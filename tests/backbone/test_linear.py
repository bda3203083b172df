"""Linear layers for inference: equal to PyTorch's, also when counted, traced, differentiated."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from backbone.linear import InferenceLinear, linear

pytestmark = pytest.mark.usefixtures('onednn_at_any_size')


def layer_and_positions(*shape, dtype=torch.float32, relu=True):
    torch.manual_seed(0)
    layer = InferenceLinear(torch.randn(40, shape[-1]), torch.randn(40), relu).to(dtype)
    return layer, torch.randn(shape).to(dtype)


def reference(layer, x):
    y = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    return y.relu() if layer.relu else y


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('shape', [(1, 24), (300, 24), (2, 5, 24), (0, 24)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_equal_to_the_product(mode, dtype, shape, relu):
    layer, x = layer_and_positions(*shape, dtype=dtype, relu=relu)

    def assert_close(y, expected):  # PyTorch's own product in low precision rounds twice
        scale = expected.abs().max() if expected.numel() else 0
        assert (y.double() - expected).abs().le(2 * torch.finfo(dtype).eps * scale).all()

    with mode():
        for given in (x, x.expand(3, *shape), torch.stack([x, x], -1)[..., 0]):
            y = layer(given)
            assert y.dtype == dtype and y.is_contiguous()
            assert_close(y, reference(layer, given))
        without = linear(x, layer.weight, None, relu)
        expected = x.double() @ layer.weight.double().T
        assert_close(without, expected.relu() if relu else expected)


def test_gradient_of_the_input():
    layer, x = layer_and_positions(30, 24)
    x.requires_grad_()
    layer(x).square().sum().backward()
    actual, x.grad = x.grad, None
    reference(layer, x).square().sum().backward()
    assert torch.allclose(actual, x.grad, 1e-4, 1e-4)


def test_derivatives_without_a_backward_pass():
    layer, x = layer_and_positions(30, 24)
    direction = torch.randn_like(x)
    expected = (direction @ layer.weight.T) * (reference(layer, x) > 0)
    with torch.no_grad(), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    assert torch.allclose(tangent, expected, 1e-4, 1e-4)
    with torch.no_grad():
        assert torch.allclose(torch.func.jvp(layer, (x,), (direction,))[1], expected, 1e-4, 1e-4)
        assert torch.allclose(torch.func.vmap(layer)(x), layer(x), 1e-4, 1e-4)


def test_flops_are_counted():
    layer, x = layer_and_positions(30, 24)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 30 * 24 * 40


def test_autocast_chooses_the_precision():
    layer, x = layer_and_positions(30, 24)
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
def test_traced_scripted_and_exported_files_hold_no_private_operator():
    layer, x = layer_and_positions(30, 24)
    with torch.no_grad():
        graphs = [
            torch.jit.trace(layer, x).inlined_graph,
            torch.jit.script(layer).inlined_graph,
            torch.export.export(layer, (x,)).graph,
        ]
        for graph in map(str, graphs):
            assert 'linear' in graph and 'mkldnn' not in graph
