"""Integers of 8 bits in an exported file: onnxruntime's static quantisation, and what it costs."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import Tensor

from effvim.console import quiet

LOSS = 0.02  # of mAP or mIoU, 0 to 1, that it may cost

PRODUCTS = ('Conv', 'Gemm', 'MatMul')

# What they compute is a box, a score or a label already: rounding there is not averaged out.
LAST = (
    'retina_cls',
    'retina_reg',
    'rpn_cls',
    'rpn_reg',
    'fc_cls',
    'fc_reg',
    'conv_logits',
    'conv_seg',
)


def quantise(content: bytes, images: Sequence[Tensor], prepare: Any) -> tuple[bytes, list[str]]:
    """The file with products of 8-bit integers, and the names of those left in float32.

    images: pictures, 3 H W, from which the ranges of activations are taken. prepare: makes of a
    batch what the file takes.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            image = next(self.left, None)
            return None if image is None else {'images': prepare(image[None]).numpy()}

    model = onnx.load_from_string(content)
    said = {item.key: item.value for item in model.metadata_props}
    left = in_float(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / 'model.onnx'
        quantize_static(
            model,
            path,
            Pictures(),
            per_channel=True,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_exclude=left,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
        )  # 7 bits of each weight: with 8 some processors overflow
        model = onnx.load(path)
    onnx.helper.set_model_props(model, {**said, 'float32': json.dumps(left)})
    return model.SerializeToString(), left


def in_float(model: Any) -> list[str]:
    """Names of the products that stay as they are.

    Last layers, transposed convolutions, for which onnxruntime has no integers, and products of two
    activations: those of the mixer weigh positions by shares far below a step of 8 bits.
    """
    weights = {item.name for item in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == 'ConvTranspose'
        or (node.op_type in PRODUCTS and weights.isdisjoint(node.input))
        or any(f'.{part}/' in node.name for part in LAST)
    ]


def measured(cfg: Config, about: Mapping[str, Any], content: bytes) -> dict[str, float]:
    """The metrics of a file on the config's test data."""
    from effvim.engine import summary
    from effvim.engine.runner import Runner

    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        path.write_bytes(content)
        cfg.model = dict(type='EffViMExportedModel', source=str(path))
        return summary.numbers(Runner(cfg, about).test())


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much of mAP, mask mAP or mIoU is lost, 0 to 1."""
    return {
        name: (value - after[name]) / (100 if name.endswith('mIoU') else 1)
        for name, value in before.items()
        if name.endswith(('mAP', 'mIoU'))
    }
