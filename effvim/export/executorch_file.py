"""A network as a file of ExecuTorch, *.pte, for its backend XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.errors import UserError
from effvim.export.decoded_graph import Decoded
from effvim.inference.small_runtimes import EXPORT_ENV

PACKAGES = ('executorch',)
HALF_SIZE = (False,)


def require() -> None:
    """Check that the package that writes and runs the files is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec('executorch') is None:
        raise UserError(f'--out *.pte needs executorch: {EXPORT_ENV} export …')


def write(
    network: Decoded, example: Tensor, path: Path, about: Mapping[str, Any], half_size: bool
) -> None:
    """Write the file.

    Args:
        network: the network.
        example: of its input.
        path: the file.
        about: not used, it is stored in another file.
        half_size: not used, weights have 32 bits.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
