"""A network as files of ncnn, *.ncnn.param and *.ncnn.bin, converted by pnnx."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.errors import UserError
from effvim.export.decoded_graph import Decoded
from effvim.inference.small_runtimes import INSTALL_NCNN

PACKAGES = ('ncnn', 'pnnx')
HALF_SIZE = (False, True)  # the last of these files is kept


def require() -> None:
    """Check that the packages that write and run the files are installed.

    Raises:
        UserError: one is not.
    """
    for name in PACKAGES:
        if find_spec(name) is None:
            raise UserError(f'--out *.ncnn.param needs {name}: {INSTALL_NCNN}')


def write(
    network: Decoded, example: Tensor, path: Path, about: Mapping[str, Any], half_size: bool
) -> None:
    """Write the files.

    Args:
        network: the network; its outputs get its names.
        example: of its input.
        path: the file *.ncnn.param.
        about: not used, it is stored in another file.
        half_size: store weights in 16 bits.

    Raises:
        UserError: pnnx knows an operator that ncnn does not have.
        RuntimeError: pnnx fails.
    """
    import pnnx

    folder = path.parent / f'{path.name}-pnnx'  # it writes many files
    folder.mkdir()
    torch.jit.trace(network, example, check_trace=False).save(str(folder / 'network.pt'))
    shape = ','.join(str(side) for side in example.shape)
    command = [pnnx.EXEC_PATH, 'network.pt', f'inputshape=[{shape}]f32', f'fp16={int(half_size)}']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors='replace')
    graph = folder / 'network.ncnn.param'
    if done.returncode or not graph.is_file():
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f'pnnx: {lines[-1] if lines else f"exit status {done.returncode}"}')
    text = renamed(graph.read_text('utf-8'), network.names)
    foreign = sorted({line.split()[0] for line in text.splitlines()[2:] if is_foreign(line)})
    if foreign:
        raise UserError(f'{path.name}: ncnn has no operator {", ".join(foreign)}')
    path.write_text(text, 'utf-8')
    graph.with_suffix('.bin').rename(path.with_suffix('.bin'))


def is_foreign(line: str) -> bool:
    """Whether a line of a graph is an operator that pnnx could not translate, e.g. torch.flip."""
    kind = line.split()[0] if line.strip() else ''
    return '.' in kind or '::' in kind


def renamed(graph: str, names: tuple[str, ...]) -> str:
    """The text of a graph with names of its input and its outputs instead of in0, out0, out1 …"""
    for old, new in [('in0', 'images'), *((f'out{i}', name) for i, name in enumerate(names))]:
        graph = re.sub(rf'(?<= ){old}(?=\s)', new, graph)
    return graph
