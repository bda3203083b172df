"""Backbones exported to onnxruntime and OpenVINO, as cases of the benchmark of backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.utils.benchmark import timer

from backbone import EfficientViM
from effvim.benchmark import timing
from effvim.benchmark.cases import INT8, Case
from effvim.benchmark.counting import count_macs, count_parameters
from effvim.config.runtime import RuntimeChoices
from effvim.export import onnx_file, openvino_file, quantization
from effvim.inference.runtimes import open_runtime

CALIBRATION = 4  # random images for 8-bit integers, whose speed alone is measured


class Outputs(nn.Module):
    """A network that returns a tuple, as graphs need it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(x)
        return tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)


def prepare(
    network: nn.Module, first: Case
) -> tuple[float, Callable[[Case], tuple[Callable[[], float], dict[str, Any]]]]:
    """Fold a network and write it as its runtime computes it fastest, see `cases.run_once`.

    Every size gets a file of its own, in which everything that can be is computed beforehand.
    """
    parameters = count_parameters(network)
    began = timer()
    if isinstance(network, EfficientViM):
        network = onnx_file.emit(network, first.form)
    else:
        network = reparameterize_model(network, inplace=True)
    seconds = timer() - began

    def start(case: Case) -> tuple[Callable[[], float], dict[str, Any]]:
        images = torch.randn(case.batch, 3, case.height, case.width)
        macs = count_macs(torch.inference_mode()(lambda: network(images)))
        began = timer()
        with TemporaryDirectory() as directory:
            path = write(Outputs(network).eval(), case, images, Path(directory))
            runtime = open_runtime(str(path), choices_of(case))
        batch = images.numpy()

        def run() -> Any:
            return runtime.finish(runtime.start(batch))

        run()
        return timing.seconds_sampler(run), dict(
            first_s=timer() - began,
            parameters=parameters,
            macs=macs,
            peak_bytes=None,
            saved_bytes=None,
        )

    return seconds, start


def choices_of(case: Case) -> RuntimeChoices:
    """How a case is run: on PyTorch's number of threads, one image after the other."""
    openvino = case.form == 'openvino'
    precision = case.dtype if openvino and case.dtype != INT8 else None
    return RuntimeChoices(runtime=case.form, precision=precision)


def write(network: nn.Module, case: Case, images: Tensor, folder: Path) -> Path:
    """Write the file of a case, and return its path."""
    with torch.inference_mode():
        names = [f'map_{i}' for i in range(len(network(images)))]
    content = onnx_file.trace(network, images, names).model_proto.SerializeToString()
    calibration = [torch.randn(3, case.height, case.width) for _ in range(CALIBRATION)]
    if case.form == 'openvino':
        path, model = folder / 'model.xml', openvino_file.read(content)
        if case.dtype == INT8:
            model, _ = openvino_file.quantise(model, calibration, nn.Identity())
        openvino_file.write(model, path)
        return path
    if case.dtype == INT8:
        content, _ = quantization.quantise(content, calibration, nn.Identity())
    path = folder / 'model.onnx'
    path.write_bytes(content)
    return path
