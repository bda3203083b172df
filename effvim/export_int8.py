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

LOSS = 0.02  # of mAP or mIoU, 0 to 1, that it may cost
PRODUCTS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
# What they compute is a box, a score or a label already: rounding there is not averaged out.
LAST = ('retina_cls', 'retina_reg', 'rpn_cls', 'rpn_reg', 'fc_cls', 'fc_reg', 'conv_logits',
        'conv_seg')  # fmt: skip


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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        quantize_static(
            model, path, Pictures(), per_channel=True,
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
            nodes_to_exclude=[node.name for node in model.graph.node
                              if any(f'.{part}/' in node.name for part in LAST)],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            # 7 bits of each weight: with 8 some processors overflow
            reduce_range=True, extra_options={'MatMulConstBOnly': True})
        model = onnx.load(path)
    left = unquantised(model)
    onnx.helper.set_model_props(model, {**said, 'int8': json.dumps({'float32': left})})
    return model.SerializeToString(), left


def unquantised(model: Any) -> list[str]:
    """Names of the products whose operands are not all integers."""
    integers = {name for node in model.graph.node if node.op_type == 'DequantizeLinear'
                for name in node.output}
    return [node.name for node in model.graph.node if node.op_type in PRODUCTS
            and not integers.issuperset(node.input[:2])]


def measured(cfg: Config, about: Mapping[str, Any], content: bytes) -> dict[str, float]:
    """The metrics of a file on the config's test data."""
    from . import report
    from .runner import Runner

    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        path.write_bytes(content)
        cfg.model = dict(type='ExportedModel', source=str(path))
        return report.numbers(Runner(cfg, about).test())


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much of mAP, mask mAP or mIoU is lost, 0 to 1."""
    return {name: (value - after[name]) / (100 if name.endswith('mIoU') else 1)
            for name, value in before.items() if name.endswith(('mAP', 'mIoU'))}
