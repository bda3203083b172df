"""Matrix products: equal to PyTorch's, also when counted, traced, differentiated."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from backbone.linear import InferenceLinear, linear, onednn_linear

needs_onednn = pytest.mark.skipif(
    onednn_linear is None or not torch.backends.mkldnn.is_available(),
    reason='PyTorch has no oneDNN here',
)


def layer_and_positions(*shape, dtype=torch.float32):
    torch.manual_seed(0)
    layer = InferenceLinear(shape[-1], 40).requires_grad_(False).to(dtype)
    return layer, torch.randn(shape).to(dtype)


def reference(layer, x):
    return F.linear(x.double(), layer.weight.double(), layer.bias.double())


@pytest.mark.parametrize('shape', [(1, 24), (300, 24), (2, 5, 24), (0, 24)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_equal_to_the_product(onednn_calls, mode, dtype, shape):
    layer, x = layer_and_positions(*shape, dtype=dtype)

    def assert_close(y, expected):  # PyTorch's own product in low precision rounds twice
        scale = expected.abs().max() if expected.numel() else 0
        assert (y.double() - expected).abs().le(2 * torch.finfo(dtype).eps * scale).all()

    with mode():
        for given in (x, x.expand(3, *shape), torch.stack([x, x], -1)[..., 0]):
            y = layer(given)
            assert y.dtype == dtype and y.is_contiguous()
            assert_close(y, reference(layer, given))
        assert_close(linear(x, layer.weight, None), x.double() @ layer.weight.double().T)
        strided = torch.stack([layer.bias, layer.bias + 100], 1)[:, 0]
        assert_close(linear(x, layer.weight, strided), reference(layer, x))
        columns = layer.weight.T.contiguous().T
        assert_close(linear(x, columns, layer.bias), reference(layer, x))


@needs_onednn
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_numbers_that_are_not_finite_stay_visible(onednn_calls, value):
    layer, x = layer_and_positions(30, 24)
    x[3, 5] = value
    layer.weight[7, 2] = value
    with torch.inference_mode():
        finite = layer(x).relu_().isfinite()
    assert torch.equal(finite, F.linear(x, layer.weight, layer.bias).relu().isfinite())
    assert onednn_calls and not finite.all()


@needs_onednn
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_onednn_computes_large_products(dtype, onednn_calls, monkeypatch):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip('oneDNN does not compute in bfloat16 on this CPU')
    layer, x = layer_and_positions(30, 24, dtype=dtype)
    with torch.inference_mode():
        layer(x)
        assert len(onednn_calls) == 1
        monkeypatch.setattr('backbone.linear.SMALLEST_PRODUCT', 30 * 24 * 40)
        layer(x)
        assert len(onednn_calls) == 2
        layer(x[1:])
        assert len(onednn_calls) == 2


class Subclass(torch.Tensor):
    pass


NOT_BY_ONEDNN = {
    'with gradients': (torch.enable_grad, lambda x, layer: layer(x)),
    'oneDNN is switched off': (
        lambda: torch.backends.mkldnn.flags(enabled=False),
        lambda x, layer: layer(x),
    ),
    'autocast': (lambda: torch.autocast('cpu', torch.bfloat16), lambda x, layer: layer(x)),
    'subclass': (
        contextlib.nullcontext,
        lambda x, layer: linear(x, layer.weight.as_subclass(Subclass), layer.bias),
    ),
    'transformed': (contextlib.nullcontext, lambda x, layer: torch.func.vmap(layer)(x)),
    'weights on another device': (
        contextlib.nullcontext,
        lambda x, layer: linear(x, layer.weight.to('meta'), layer.bias),
    ),
    'compiled': (
        contextlib.nullcontext,
        lambda x, layer: torch.compile(layer, backend='eager', fullgraph=True)(x),
    ),
}


@pytest.mark.parametrize('case', NOT_BY_ONEDNN)
def test_pytorch_computes(case, onednn_calls):
    layer, x = layer_and_positions(30, 24)
    context, compute = NOT_BY_ONEDNN[case]
    with torch.no_grad(), context():
        assert compute(x, layer).shape == (30, 40)
    assert not onednn_calls


def test_a_bias_of_another_precision_is_refused(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    with torch.no_grad(), pytest.raises(RuntimeError):
        linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias)


def test_gradient_of_the_input(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    x.requires_grad_()
    layer(x).square().sum().backward()
    actual, x.grad = x.grad, None
    reference(layer, x).square().sum().backward()
    assert torch.allclose(actual, x.grad, 1e-4, 1e-4)


def test_derivatives_without_a_backward_pass(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    direction = torch.randn_like(x)
    expected = direction @ layer.weight.T
    with torch.no_grad(), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    assert torch.allclose(tangent, expected, 1e-4, 1e-4)
    with torch.no_grad():
        assert torch.allclose(torch.func.jvp(layer, (x,), (direction,))[1], expected, 1e-4, 1e-4)
        assert torch.allclose(torch.func.vmap(layer)(x), layer(x), 1e-4, 1e-4)


def test_flops_are_counted(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 30 * 24 * 40


def test_autocast_chooses_the_precision(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
def test_traced_scripted_and_exported_files_hold_no_private_operator(onednn_calls):
    layer, x = layer_and_positions(30, 24)
    with torch.no_grad():
        graphs = [
            torch.jit.trace(layer, x).inlined_graph,
            torch.jit.script(layer).inlined_graph,
            torch.export.export(layer, (x,)).graph,
        ]
        for graph in map(str, graphs):
            assert 'linear' in graph and 'mkldnn' not in graph
