"""Static quantisation of an exported file to 8-bit integers, and the accuracy that it loses."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from torch import Tensor

from effvim.config.run_spec import RunSpec
from effvim.console import quiet

LOSS = 0.02  # of mAP or mIoU, on a scale of 0 to 1, that quantisation may cost
PRODUCTS = ('Conv', 'Gemm', 'MatMul')

# Layers that output boxes, scores, masks or labels: later layers do not average out their rounding.
OUTPUT_LAYER = re.compile(
    r"""\.(
    (retina|atss|rpn|rtm|fc)_(cls|reg) | (conv|multi_level_conv)_(cls|reg|obj) |
    (atss|conv)_centerness | rtm_kernel | (cls|reg)_branches | conv_logits | conv_seg
    )(\.\d+)*/""",
    re.VERBOSE,
)


def quantise(content: bytes, images: Sequence[Tensor], prepare: Any) -> tuple[bytes, list[str]]:
    """Quantise an exported file.

    Args:
        content: of the file.
        images: each 3 H W, for calibrating the ranges of activations.
        prepare: converts a batch to the input of the file.

    Returns:
        The content of the quantised file, and the names of the products that stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class ImageReader(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            image = next(self.remaining, None)
            return None if image is None else {'images': prepare(image[None]).numpy()}

    model = onnx.load_from_string(content)
    metadata = {item.key: item.value for item in model.metadata_props}
    in_float = products_in_float(model)
    with tempfile.TemporaryDirectory() as directory, quiet():
        path = Path(directory) / 'model.onnx'
        quantize_static(
            model,
            path,
            ImageReader(),
            per_channel=True,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_exclude=in_float,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # weights of 7 bits: with 8 some processors overflow
        )
        model = onnx.load(path)
    onnx.helper.set_model_props(model, {**metadata, 'float32': json.dumps(in_float)})
    return model.SerializeToString(), in_float


def products_in_float(model: Any) -> list[str]:
    """Names of the products that stay in float32.

    These are output layers; transposed convolutions, which onnxruntime cannot quantise; and
    products of two activations, since the mixer's weights of positions are far below a step of
    8 bits.
    """
    weights = {item.name for item in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == 'ConvTranspose'
        or (
            node.op_type in PRODUCTS
            and (weights.isdisjoint(node.input) or OUTPUT_LAYER.search(node.name))
        )
    ]


def measured(cfg: Config, spec: RunSpec, path: Path) -> dict[str, float]:
    """Evaluate an exported file on the config's test data; returns its metrics.

    Args:
        cfg: the config.
        spec: the run that trained the model.
        path: the file's.
    """
    from effvim.engine import summary  # imports mmdet
    from effvim.engine.runner import Runner

    cfg = copy.deepcopy(cfg)
    cfg.model = dict(type='EffViMExportedModel', source=str(path))
    return summary.numbers(Runner(cfg, spec).test())


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The loss of box mAP, mask mAP or mIoU, on a scale of 0 to 1."""
    return {
        name: (value - after[name]) / (100 if name.endswith('mIoU') else 1)
        for name, value in before.items()
        if name.endswith(('mAP', 'mIoU'))
    }
