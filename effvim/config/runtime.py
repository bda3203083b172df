"""What runs an exported file, and how; importing this needs no torch."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

from backbone.errors import UserError
from effvim.checkpoints.kinds import is_exported, runtime_of
from effvim.config.machine import num_cores

RUNTIMES = ('onnxruntime', 'openvino')  # that a choice is between
PRECISIONS = {'float32': 'f32', 'bfloat16': 'bf16', 'float16': 'f16'}  # as OpenVINO calls them


class MissingPrecision(UserError):
    """A device cannot compute in a precision."""


@dataclasses.dataclass(kw_only=True)
class RuntimeChoices:
    """How to run an exported file. None leaves the choice to this project.

    Attributes:
        runtime: one of `RUNTIMES`; an ONNX file runs in either, by default in onnxruntime.
        device: of OpenVINO: 'CPU' (the default), 'GPU', 'NPU', 'AUTO' …
        precision: that OpenVINO computes in, one of `PRECISIONS`, by default 'float32', or what
            a device without it has. A file in 8-bit integers stays one; this is the precision of
            the rest of it.
        threads: of the CPU, on how many; by default as many as PyTorch takes.
        streams: how many images OpenVINO computes at the same time, which is faster for many
            images and slower for each; 0: as many as are best.
    """

    runtime: str | None = None
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    streams: int | None = None

    @classmethod
    def of(cls, choices: Mapping[str, Any]) -> RuntimeChoices:
        """The choices by name.

        Raises:
            UserError: there is no such choice.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in choices:
            if name not in names:
                raise UserError(f'runtime: there is no choice {name!r}, only {", ".join(names)}')
        return cls(**choices)

    def num_threads(self) -> int:
        """The number of threads of the CPU: the chosen one, or about as many as PyTorch takes."""
        if self.threads:
            return self.threads
        torch_threads = getattr(sys.modules.get('torch'), 'get_num_threads', None)
        if torch_threads:  # which may have been set
            return torch_threads()
        for name in ('MKL_NUM_THREADS', 'OMP_NUM_THREADS'):
            told = os.environ.get(name, '').partition(',')[0].strip()
            if told.isdecimal() and int(told):
                return int(told)
        import psutil

        return min(num_cores(), psutil.cpu_count(logical=False) or num_cores())

    def runtime_of(self, path: str) -> str:
        """The runtime for a file: the chosen one, or the default of its format; else ''."""
        return self.runtime or runtime_of(path)

    def check(self, path: str) -> None:
        """Check the choices against the file, a checkpoint or an exported one.

        Raises:
            UserError: one of them cannot be had.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        if given and not is_exported(path):
            raise UserError(
                f'--{min(given)} is for exported files (*.onnx, *.xml …), {path} runs in PyTorch: '
                f'drop it, or run effvim export first'
            )
        own, runtime = runtime_of(path), self.runtime_of(path)
        if self.runtime and self.runtime not in (*RUNTIMES, own):
            raise UserError(f'--runtime must be {" or ".join(RUNTIMES)}, got {self.runtime!r}')
        if own and runtime != own and own != 'onnxruntime':
            owner = 'OpenVINO' if own == 'openvino' else own
            raise UserError(f'--runtime {runtime}: {path} is a file of {owner}: drop it')
        if runtime != 'openvino':
            for name in ('device', 'precision', 'streams'):
                if name in given and str(given[name]).lower() != 'cpu':
                    add = 'add --runtime openvino, or ' if own == 'onnxruntime' else ''
                    raise UserError(f'--{name} is a choice of OpenVINO: {add}drop it')
        if self.precision and self.precision not in PRECISIONS:
            raise UserError(
                f'--precision must be {", ".join(PRECISIONS)}, got {self.precision!r}; 8-bit '
                f'integers are a matter of the file: effvim export --int8'
            )
        if self.threads and own == 'executorch':
            raise UserError('--threads: ExecuTorch takes all cores: drop it')
        if self.threads and self.device and self.device.lower() != 'cpu':
            raise UserError(f'--threads are of the CPU, not of --device {self.device}: drop it')
        for name, least in (('threads', 1), ('streams', 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f'--{name} must be at least {least}, got {value}')
