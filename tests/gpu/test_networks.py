"""Networks on a GPU against the same networks on the CPU; folded, compiled, in CUDA graphs."""

import copy

import pytest
import torch

from backbone import ARCHS, EfficientViM, EfficientViMClassifier
from tests.helpers.networks import gradients, randomised, relative

pytestmark = pytest.mark.gpu
HALF = [torch.bfloat16, torch.float16]
SIZE = (2, 3, 200, 264)


@pytest.mark.parametrize('arch', ARCHS)
def test_maps_equal_those_of_the_cpu(arch, gpu, tolerance):
    network, x = randomised(EfficientViM(arch)).eval(), torch.randn(SIZE)
    with torch.inference_mode():
        expected = network(x)
        for form in (network.to(gpu), copy.deepcopy(network).fuse()):
            for layout in (torch.contiguous_format, torch.channels_last):
                for a, b in zip(form(x.to(gpu, memory_format=layout)), expected, strict=True):
                    assert relative(a.cpu(), b) <= tolerance


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('norm_eval', [True, False], ids=['folded on the fly', 'batch statistics'])
def test_gradients_equal_those_of_the_cpu(arch, norm_eval, gpu, tolerance):
    network, x = randomised(EfficientViM(arch, norm_eval=norm_eval)), torch.randn(SIZE)
    on_gpu = copy.deepcopy(network).to(gpu)
    expected = gradients(network, network(x))
    found = gradients(on_gpu, [m.cpu() for m in on_gpu(x.to(gpu))])
    assert found.keys() == expected.keys()
    # sums over all positions cancel to a small part of their summands
    for name, value in expected.items():
        difference = (found[name].cpu() - value).norm()
        assert difference <= 30 * tolerance * max(value.norm(), 1e-3), name


@pytest.mark.parametrize('checkpointing', [False, True])
def test_gradient_checkpointing_changes_no_gradient(checkpointing, gpu, tolerance):
    network = randomised(EfficientViM('m1')).to(gpu)
    recomputing = EfficientViM('m1', with_cp=checkpointing).to(gpu)
    recomputing.load_state_dict(network.state_dict())
    x = torch.randn(SIZE, device=gpu)
    expected = gradients(network, [m.cpu() for m in network(x)])
    found = gradients(recomputing, [m.cpu() for m in recomputing(x)])
    for name, value in expected.items():
        assert relative(found[name], value) <= 30 * tolerance, name


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('arch', ARCHS)
def test_lower_precision(arch, dtype, gpu):
    network, x = randomised(EfficientViM(arch)).eval(), torch.randn(SIZE)
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast('cuda', dtype):
            mixed = network.to(gpu)(x.to(gpu))
        folded = copy.deepcopy(network).fuse().to(dtype)(x.to(gpu, dtype))
        for a, b, c in zip(mixed, folded, expected, strict=True):
            for given in (a.float().cpu(), b.float().cpu()):
                assert torch.isfinite(given).all()
                # of the whole map: single values round by more
                assert (given - c).norm() <= 5e-2 * c.norm()


@pytest.mark.parametrize('arch', ARCHS)
def test_classifier(arch, gpu, tolerance):
    network = randomised(EfficientViMClassifier(arch)).eval()
    x = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        expected = network(x)
        assert relative(network.to(gpu)(x.to(gpu)).cpu(), expected) <= tolerance
        assert relative(network.fuse()(x.to(gpu)).cpu(), expected) <= tolerance


@pytest.mark.parametrize('mode', ['default', 'reduce-overhead'])
@pytest.mark.parametrize('folded', [False, True], ids=['plain', 'folded'])
def test_compiled(mode, folded, gpu, tolerance):
    network = randomised(EfficientViM('m1')).eval().to(gpu)
    if folded:
        network.fuse()
    torch._dynamo.reset()
    compiled = torch.compile(network, mode=mode, fullgraph=True)
    with torch.inference_mode():
        for _ in range(3):  # CUDA graphs are recorded at the second call
            x = torch.randn(SIZE, device=gpu)
            found = [m.clone() for m in compiled(x)]
            for a, b in zip(found, network(x), strict=True):
                assert relative(a, b) <= tolerance


@pytest.mark.parametrize('arch', ARCHS)
def test_a_recorded_cuda_graph_computes_other_images(arch, gpu, tolerance):
    network = randomised(EfficientViM(arch)).eval().to(gpu).fuse()
    static = torch.randn(SIZE, device=gpu)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            network(static)  # libraries allocate their workspace at the first call
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            maps = network(static)
        for _ in range(2):
            x = torch.randn(SIZE, device=gpu)
            static.copy_(x)
            graph.replay()
            for a, b in zip(maps, network(x), strict=True):
                assert relative(a, b) <= tolerance
