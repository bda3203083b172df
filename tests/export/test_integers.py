"""Which operators of a model of OpenVINO are computed in 8-bit integers."""

import numpy as np
import pytest

from effvim.export import openvino_file

openvino = pytest.importorskip('openvino', reason='needs the extra openvino')
ops = openvino.opset13


def test_silus_of_convolutions_are_quantised_with_them():
    """Other sigmoids and multiplications, as of gates, stay in float."""

    def names(parts):
        image = ops.parameter([1, 3, 8, 8], name='image')
        kernel = ops.constant(np.ones((3, 3, 1, 1), np.float32))
        conv = ops.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        biased = ops.add(conv, ops.constant(np.ones((1, 3, 1, 1), np.float32)))
        gate = ops.sigmoid({'conv': conv, 'biased': biased, 'image': image}[parts[0]])
        product = ops.multiply({'conv': conv, 'biased': biased, 'image': image}[parts[1]], gate)
        model = openvino.Model([product], [image])
        both = {product.get_friendly_name(), gate.get_friendly_name()}
        return both & set(openvino_file.factors_in_float(model)), both

    for parts in ('conv', 'conv'), ('biased', 'biased'):
        assert names(parts)[0] == set()
    for parts in ('image', 'image'), ('conv', 'biased'), ('image', 'conv'), ('biased', 'image'):
        in_float, both = names(parts)
        assert in_float == both
