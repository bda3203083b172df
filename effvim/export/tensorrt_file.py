"""A network as an ONNX file for TensorRT, *.trt.onnx, most of it in 16 bits."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from backbone.errors import UserError
from effvim.export import onnx_file
from effvim.export.decoded_graph import Decoded
from effvim.export.half_precision import halve, round_results
from effvim.inference.small_runtimes import InTurn, Outputs

PACKAGES = ('onnx', 'onnxruntime')
HALF_SIZE = (False, True)  # the last of these files is kept
SUFFIX = '.trt.onnx'
# Of TensorRT 10's operators (docs/operators.md in the repository onnx-tensorrt) those that networks
# of this kind consist of. Its DeformConv is a plugin, and onnxruntime has none on every CPU.
OPERATORS = """
Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose Div Equal Exp Expand Flatten Gather
GatherND Gemm GlobalAveragePool HardSigmoid InstanceNormalization LayerNormalization MatMul Max
MaxPool Min Mul Neg Pad Pow Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Resize Sigmoid
Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where
"""

require = onnx_file.require


def write(
    network: Decoded, example: Tensor, path: Path, about: Mapping[str, Any], half_size: bool
) -> None:
    """Write the file, with its metadata inside.

    Args:
        network: the network; its outputs get its names.
        example: of its input.
        path: the file.
        about: the metadata.
        half_size: compute in 16 bits, see `half_precision`.

    Raises:
        UserError: the graph has an operator that is not one of `OPERATORS`.
    """
    program = onnx_file.trace(network, example, network.names)
    foreign = sorted({node.op_type for node in program.model.graph} - set(OPERATORS.split()))
    if foreign:
        raise UserError(
            f'{path.name}: a file for TensorRT takes no {", ".join(foreign)}: add --backbone-only'
        )
    if half_size:
        halve(program.model)
    path.write_bytes(onnx_file.content_of(program, about))


def command(path: Path) -> str:
    """The command that builds an engine from a file, on the machine with the GPU."""
    engine = str(path).removesuffix(SUFFIX) + '.engine'
    return shlex.join(['trtexec', f'--onnx={path}', '--stronglyTyped', f'--saveEngine={engine}'])


class Rounding(InTurn):
    """A file in onnxruntime, with all results rounded that the file says have 16 bits.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        import onnx_ir
        import onnxruntime

        model = onnx_ir.load(path)
        round_results(model)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        self.names = json.loads(model.metadata_props['outputs'])
        self.session: Any = onnxruntime.InferenceSession(
            onnx_ir.to_proto(model).SerializeToString(),
            options,
            providers=['CPUExecutionProvider'],
        )

    def start(self, images: np.ndarray) -> Outputs:
        return dict(zip(self.names, self.session.run(self.names, {'images': images})))
