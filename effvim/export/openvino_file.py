"""An exported graph as a pair of files of OpenVINO, *.xml and *.bin, also in 8-bit integers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.errors import UserError
from effvim.checkpoints.exported import hash_of_weights
from effvim.console import quiet
from effvim.export.quantization import OUTPUT_LAYER
from effvim.inference.runtimes import INSTALL_OPENVINO, openvino_core


def require(integers: bool) -> None:
    """Check that the packages that write the files are installed.

    Raises:
        UserError: one is not.
    """
    for name in ('openvino', 'nncf') if integers else ('openvino',):
        if find_spec(name) is None:
            raise UserError(f'--out *.xml needs {name}: {INSTALL_OPENVINO}')


def read(content: bytes) -> Any:
    """An ONNX graph as a model of OpenVINO, which keeps its metadata."""
    return openvino_core().read_model(content)


def write(model: Any, path: Path, half_size: bool = True) -> None:
    """Write a model of OpenVINO to *.xml and its weights, of half or full size, to *.bin."""
    import openvino

    def save() -> None:
        openvino.save_model(model, path, compress_to_fp16=half_size)

    save()
    # weights of another model would fit as well
    model.set_rt_info(json.dumps(hash_of_weights(str(path))), ['framework', 'weights'])
    save()


# Operators between the products, whose inputs are not quantised: the conversions would take longer
# than they save, lose accuracy, and keep OpenVINO from computing a SiLU within a convolution.
IN_FLOAT = (
    'Add',
    'Divide',
    'MVN',
    'Multiply',
    'Power',
    'ReduceMean',
    'Sigmoid',
    'Softmax',
    'Sqrt',
    'Subtract',
)


def quantise(model: Any, images: Sequence[Tensor], prepare: Any) -> tuple[Any, list[str]]:
    """Quantise a model of OpenVINO.

    Args:
        model: in float32; it is not changed.
        images: each 3 H W, for calibrating the ranges of activations.
        prepare: converts a batch to the input of the model.

    Returns:
        The quantised model, and the names of the products that stay in float32: of the layers that
        output boxes, scores or labels, and of two activations. The operators of `IN_FLOAT`, which
        stay in float32 as well, are not among the names.
    """
    with quiet(logging.ERROR):
        import nncf

        in_float = products_in_float(model)
        types = {node.get_type_name() for node in model.get_ops()}
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(images), lambda image: {'images': prepare(image[None]).numpy()}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(in_float, types=sorted(types.intersection(IN_FLOAT))),
        )
    quantised.set_rt_info(json.dumps(in_float), ['framework', 'float32'])
    return quantised, in_float


def name_of(node: Any) -> str:
    """The name by which NNCF knows a node."""
    return str(node.get_friendly_name())


def products_in_float(model: Any) -> list[str]:
    """Names of the products that stay in float32, see `quantise`."""
    products = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
    names: list[str] = []
    computed: set[str] = set()  # names of the nodes that depend on the image
    for node in model.get_ordered_ops():
        name, kind = name_of(node), node.get_type_name()
        inputs = [name_of(value.get_node()) for value in node.input_values()]
        if kind == 'Parameter' or not computed.isdisjoint(inputs):
            computed.add(name)
        of_two_activations = kind == 'MatMul' and inputs[1] in computed
        if kind in products and (of_two_activations or OUTPUT_LAYER.search(name)):
            names.append(name)
    return names
