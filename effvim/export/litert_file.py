"""A network as a file of LiteRT, *.tflite, converted by litert-torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.errors import UserError
from effvim.export.decoded_graph import Decoded, WithFactors
from effvim.inference.small_runtimes import EXPORT_ENV

PACKAGES = ('litert-torch', 'ai-edge-litert')
HALF_SIZE = (False,)


def require() -> None:
    """Check that the packages that write and run the files are installed.

    Raises:
        UserError: one is not.
    """
    for name in PACKAGES:
        if find_spec(name.replace('-', '_')) is None:
            raise UserError(f'--out *.tflite needs {name}: {EXPORT_ENV} export …')


def write(
    network: Decoded, example: Tensor, path: Path, about: Mapping[str, Any], half_size: bool
) -> None:
    """Write the file.

    Args:
        network: the network; its outputs get its names.
        example: of its input.
        path: the file.
        about: not used, it is stored in another file.
        half_size: not used, weights have 32 bits.
    """
    import litert_torch

    named = WithFactors(network, as_dict=True).eval()
    litert_torch.convert(named, sample_kwargs={'images': example}).export(str(path))
