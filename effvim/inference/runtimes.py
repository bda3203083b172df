"""The runtimes that an exported file can run in: onnxruntime, OpenVINO and small ones.

All take images, B 3 H W, and return the outputs by name, as NumPy arrays. Only ExecuTorch needs
torch.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from backbone.errors import UserError
from effvim.checkpoints.exported import INSTALL
from effvim.config.runtime import PRECISIONS, MissingPrecision, RuntimeChoices
from effvim.console import quiet
from effvim.inference.small_runtimes import SMALL, Outputs

INSTALL_OPENVINO = 'install the extra openvino, pip install ".[openvino]"'

# The precisions as OpenVINO lists what a device can compute in.
CAPABILITIES = {'float32': 'FP32', 'bfloat16': 'BF16', 'float16': 'FP16'}


class Runtime(Protocol):
    """Runs one exported file.

    Attributes:
        in_flight: how many batches are worth computing at the same time.
    """

    in_flight: int

    def start(self, images: np.ndarray) -> Any:
        """Begin to compute a batch; returns what `finish` takes."""

    def finish(self, job: Any) -> Outputs:
        """Wait for a batch that was started, and return its outputs."""


class OnnxRuntime:
    """A file in onnxruntime, on as many threads as torch has unless it is told otherwise.

    Raises:
        UserError: onnxruntime is not installed, or cannot run the file.
    """

    in_flight = 1

    def __init__(self, path: str, choices: RuntimeChoices) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise UserError(f'ONNX files need onnxruntime: {INSTALL}') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = choices.num_threads()
        options.log_severity_level = 4  # errors are raised, too
        providers = onnxruntime.get_available_providers()
        if (choices.device or '').lower() == 'cpu':
            providers = ['CPUExecutionProvider']
        if 'CUDAExecutionProvider' in providers and hasattr(onnxruntime, 'preload_dlls'):
            with quiet():
                onnxruntime.preload_dlls()  # of CUDA, which PyTorch, too, would load
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # of many types, over foreign bytes
            raise UserError(f'{path} cannot be read as an ONNX file: {error}') from error
        self.names = [output.name for output in self.session.get_outputs()]

    def start(self, images: np.ndarray) -> Outputs:
        try:
            return dict(zip(self.names, self.session.run(self.names, {'images': images})))
        except Exception as error:  # of many types
            raise UserError(f'onnxruntime cannot compute an image: {last_line(error)}') from error

    def finish(self, job: Outputs) -> Outputs:
        return job


def openvino_core() -> Any:
    """OpenVINO's core, one for the whole process: with the last one its libraries are unloaded.

    Raises:
        UserError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise UserError(f'--runtime openvino and *.xml need it: {INSTALL_OPENVINO}') from error
    return _core(openvino)


@functools.cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


class OpenVino:
    """A file in OpenVINO.

    Raises:
        UserError: OpenVINO is not installed, cannot run the file, or lacks the device or the
            precision.
    """

    def __init__(self, path: str, choices: RuntimeChoices) -> None:
        core = openvino_core()
        device = (choices.device or 'CPU').upper()
        precision = available_precision(core, device, choices.precision)
        settings: dict[str, Any] = {
            'PERFORMANCE_HINT': 'THROUGHPUT' if choices.streams == 0 else 'LATENCY'
        }
        if precision:
            settings['INFERENCE_PRECISION_HINT'] = PRECISIONS[precision]
        if choices.streams:
            settings['NUM_STREAMS'] = choices.streams
        if device == 'CPU':
            settings['INFERENCE_NUM_THREADS'] = choices.num_threads()
        try:
            self.compiled = core.compile_model(path, device, settings)
        except RuntimeError as error:
            raise UserError(f'{path} cannot be run by OpenVINO: {last_line(error)}') from error
        self.names = [output.get_any_name() for output in self.compiled.outputs]
        self.in_flight = 1
        if choices.streams != 1 and choices.streams is not None:
            self.in_flight = self.compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS')
        self.idle: list[Any] = []

    def start(self, images: np.ndarray) -> Any:
        try:
            request = self.idle.pop()  # several threads may take one
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            request.start_async({'images': images}, share_inputs=False)
        except RuntimeError as error:
            raise UserError(f'OpenVINO cannot compute an image: {last_line(error)}') from error
        return request

    def finish(self, job: Any) -> Outputs:
        try:
            job.wait()
        except RuntimeError as error:
            raise UserError(f'OpenVINO cannot compute an image: {last_line(error)}') from error
        outputs = {name: job.get_output_tensor(i).data.copy() for i, name in enumerate(self.names)}
        self.idle.append(job)
        return outputs


def available_precision(core: Any, device: str, precision: str | None) -> str | None:
    """The precision to compute in: the given one, else float32, or None where a device lacks it.

    Raises:
        UserError: OpenVINO has no such device, or the device not the given precision.
    """
    try:
        known = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
    except RuntimeError as error:
        available = ', '.join(core.available_devices)
        raise UserError(f'--device {device}: OpenVINO finds only {available} here') from error
    names = {name: short for name, short in CAPABILITIES.items() if short in known}
    if precision and precision not in names:
        raise MissingPrecision(
            f'precision {precision}: this {device} computes only in {", ".join(names)}: choose '
            f'one of these'
        )
    return precision or ('float32' if 'float32' in names else None)


def last_line(error: BaseException) -> str:
    """What an error of a runtime says last, which names the cause and the node."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def open_runtime(path: str, choices: RuntimeChoices) -> Runtime:
    """Open a file in the runtime that is chosen for it.

    Raises:
        UserError: the runtime is not installed, cannot run the file or do what is asked for.
    """
    choices.check(path)
    runtime = choices.runtime_of(path)
    if runtime in SMALL:
        return SMALL[runtime](path, choices)
    if runtime == 'openvino':
        return OpenVino(path, choices)
    return OnnxRuntime(path, choices)
