"""A network as a package of Core ML, *.mlpackage, which only a Mac can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.errors import UserError
from effvim.export.decoded_graph import Decoded, WithFactors

PACKAGES = ('coremltools',)
HALF_SIZE = (True,)
# These stay in float32: sums over many positions or channels, and boxes in pixels, of which 16
# bits hold only whole ones. They are told by their last axis.
IN_FLOAT32 = ('softmax', 'layer_norm', 'reduce_mean', 'rsqrt')


def require() -> None:
    """Check that the package that writes the files is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec('coremltools') is None:
        raise UserError(
            '--out *.mlpackage needs coremltools: install the extra coreml, pip install ".[coreml]"'
        )


def write(
    network: Decoded, example: Tensor, path: Path, about: Mapping[str, Any], half_size: bool
) -> None:
    """Write the package, with its metadata inside.

    Args:
        network: the network; its outputs get its names.
        example: of its input.
        path: the package.
        about: the metadata.
        half_size: always: weights have 16 bits, and but for sums and boxes all is computed in them.
    """
    import coremltools as ct

    traced = torch.jit.trace(WithFactors(network), example, check_trace=False)
    image = ct.TensorType(name='images', shape=example.shape)
    if about['input'] == 'rgb' and example.shape[1] == 3:
        image = ct.ImageType('images', example.shape, color_layout=ct.colorlayout.RGB)
    model = ct.convert(
        traced,
        inputs=[image],
        outputs=[ct.TensorType(name=name) for name in network.names],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.transform.FP16ComputePrecision(op_selector=in_float16),
        skip_model_load=True,
    )
    model.user_defined_metadata.update(
        {key: json.dumps(value, ensure_ascii=False) for key, value in about.items()}
    )
    model.save(str(path))


def in_float16(op: Any) -> bool:
    """Whether an operation of a graph may be computed in 16 bits."""
    boxes = any(len(value.shape or ()) == 3 and value.shape[2] in (2, 4) for value in op.outputs)
    return not boxes and op.op_type not in IN_FLOAT32
