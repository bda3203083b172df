"""Exported files in onnxruntime on a GPU."""

import pytest
import torch

from backbone import EfficientViM
from backbone.convolutional import convolutional
from effvim.export.onnx_file import trace
from tests.helpers.networks import randomised, relative

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize('arch', ['m1', 'm4'])
def test_onnxruntime_on_the_gpu_equals_pytorch(arch, gpu):
    onnxruntime = pytest.importorskip('onnxruntime')
    provider = 'CUDAExecutionProvider'
    if provider not in onnxruntime.get_available_providers():
        pytest.skip('needs onnxruntime-gpu')
    network = convolutional(randomised(EfficientViM(arch)).eval().fuse())
    x = torch.randn(2, 3, 200, 264)
    with torch.inference_mode():
        expected = network(x)
    program = trace(network, x, ['stride_16', 'stride_32', 'stride_64'])
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(
        content, providers=[(provider, {'use_tf32': 0}), 'CPUExecutionProvider']
    )
    assert session.get_providers()[0] == provider
    for found, value in zip(session.run(None, {'images': x.numpy()}), expected, strict=True):
        assert relative(torch.from_numpy(found), value) <= 1e-4
