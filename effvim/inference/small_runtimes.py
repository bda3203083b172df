"""The runtimes of phones and small boards: ncnn, LiteRT and ExecuTorch.

They take one image of one size, float32, and end before NMS, see `inference.selection`.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np

from backbone.errors import UserError
from effvim.checkpoints.exported import json_metadata
from effvim.config.runtime import RuntimeChoices
from effvim.console import silent

INSTALL_NCNN = 'install the extra ncnn, pip install ".[ncnn]"'
INSTALL_LITERT = 'install the extra litert, pip install ".[litert]"'
EXPORT_ENV = 'run "make export-env", then .venv-export/bin/effvim'

Outputs = dict[str, np.ndarray]


class InTurn:
    """A runtime that computes one image at a time, whatever the number of threads that ask."""

    in_flight = 1

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def start(self, images: np.ndarray) -> Outputs:
        """Compute a batch of one image. Shape: 1 3 H W → by name, each 1 …"""
        with self.lock:
            return self.compute(images)

    def compute(self, images: np.ndarray) -> Outputs:
        """As `start`, on one thread at a time."""
        raise NotImplementedError

    def finish(self, job: Outputs) -> Outputs:
        """The outputs of a batch that was started."""
        return job


class Ncnn(InTurn):
    """A file in ncnn, on the CPU.

    Raises:
        UserError: ncnn is not installed, or cannot run the file.
    """

    def __init__(self, path: str, choices: RuntimeChoices) -> None:
        super().__init__()
        try:
            import ncnn
        except ModuleNotFoundError as error:
            raise UserError(f'*.ncnn.param needs ncnn: {INSTALL_NCNN}') from error
        self.mat, self.net = ncnn.Mat, ncnn.Net()
        self.net.opt.use_vulkan_compute = False
        self.net.opt.num_threads = choices.num_threads()
        with silent():
            failed = self.net.load_param(path) or self.net.load_model(
                path.removesuffix('param') + 'bin'
            )
        if failed:
            raise UserError(f'{path} cannot be read by ncnn: copy all files of one export')

    def compute(self, images: np.ndarray) -> Outputs:
        run = self.net.create_extractor()
        (image,) = images
        run.input('images', self.mat(image).clone())
        outputs = {}
        for name in self.net.output_names():
            failed, value = run.extract(name)
            if failed:
                raise UserError(f'ncnn cannot compute the output {name} of an image')
            outputs[name] = np.array(value)[None]
        return outputs


class LiteRt(InTurn):
    """A file in LiteRT, on the CPU.

    Raises:
        UserError: LiteRT is not installed, or cannot run the file.
    """

    def __init__(self, path: str, choices: RuntimeChoices) -> None:
        super().__init__()
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise UserError(f'*.tflite needs ai-edge-litert: {INSTALL_LITERT}') from error
        threads = choices.num_threads()
        try:
            with silent():
                self.interpreter = Interpreter(path, num_threads=threads)
                self.interpreter.allocate_tensors()
                self.run = self.interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise UserError(f'{path} cannot be read by LiteRT: {error}') from error

    def compute(self, images: np.ndarray) -> Outputs:
        # the next image overwrites them
        return {name: value.copy() for name, value in self.run(images=images).items()}


class ExecuTorch(InTurn):
    """A file in ExecuTorch, on the CPU, which computes on as many threads as it finds cores.

    Raises:
        UserError: ExecuTorch is not installed, or cannot run the file.
    """

    def __init__(self, path: str, choices: RuntimeChoices) -> None:
        super().__init__()
        self.names = json.loads(json_metadata(path)['outputs'])
        try:
            with silent():
                from executorch.runtime import Runtime
        except ModuleNotFoundError as error:
            raise UserError(f'*.pte needs executorch: {EXPORT_ENV}') from error
        try:
            with silent():
                self.program = Runtime.get().load_program(path)  # lives as long as its method
                self.method = self.program.load_method('forward')
        except RuntimeError as error:
            raise UserError(f'{path} cannot be read by ExecuTorch: {error}') from error

    def compute(self, images: np.ndarray) -> Outputs:
        import torch

        outputs: Any = self.method.execute((torch.from_numpy(images),))
        # the next image overwrites them
        return {name: x.numpy().copy() for name, x in zip(self.names, outputs)}


SMALL = {'ncnn': Ncnn, 'litert': LiteRt, 'executorch': ExecuTorch}
