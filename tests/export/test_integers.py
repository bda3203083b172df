"""Which operators of a model of OpenVINO are computed in 8-bit integers."""

import numpy as np
import pytest
import torch

from effvim.export import openvino_file

openvino = pytest.importorskip('openvino', reason='needs the extra openvino')
pytest.importorskip('nncf', reason='needs the extra openvino')
ops = openvino.opset13


def convolution(x, in_channels, rng):
    kernel = rng.normal(size=(16, in_channels, 3, 3)).astype(np.float32)
    y = ops.convolution(x, ops.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1])
    return ops.add(y, ops.constant(rng.normal(size=(1, 16, 1, 1)).astype(np.float32)))


def silu(x):
    return ops.multiply(x, ops.sigmoid(x))


def test_products_take_integers():
    """SiLUs, sums and gates between them do not, whichever operand comes first."""
    rng = np.random.default_rng(0)
    image = ops.parameter([1, 3, 32, 32], name='images')
    image.output(0).get_tensor().set_names({'images'})
    x = silu(convolution(image, 3, rng))
    x = silu(ops.add(x, convolution(x, 16, rng)))
    x = ops.multiply(ops.sigmoid(ops.reduce_mean(x, [2, 3], keep_dims=True)), x)
    x = convolution(silu(convolution(x, 16, rng)), 16, rng)
    images = [torch.rand(3, 32, 32) for _ in range(4)]
    model = openvino.Model([ops.result(x)], [image])
    quantised, in_float = openvino_file.quantise(model, images, lambda batch: batch)
    assert in_float == []
    readers = {
        reader.get_node().get_type_name()
        for node in quantised.get_ops()
        if node.get_type_name() == 'FakeQuantize'
        for reader in node.output(0).get_target_inputs()
    }
    assert readers == {'Convolution'}
    convolutions = [n for n in quantised.get_ops() if n.get_type_name() == 'Convolution']
    assert len(convolutions) == 4
    for node in convolutions:
        assert node.input_value(0).get_node().get_type_name() == 'FakeQuantize'
