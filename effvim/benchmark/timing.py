"""How the benchmarks measure: interleaved rounds, memory, and the speed of the machine."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.benchmark.utils.common import set_torch_threads

from backbone.errors import UserError
from effvim.checkpoints.versions import versions
from effvim.config.machine import num_cores, processor
from effvim.config.precision import amp_available

Key = TypeVar('Key', bound=Hashable)

Value = TypeVar('Value')

MATRIX_SIDE = 2048  # of the square matrices whose product shows the machine's speed
MIN_RUN_TIME = 0.2  # seconds; within a round, shorter calls are repeated for that long

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def interleave(
    samplers: Mapping[Key, Callable[[], Value]], rounds: int, seconds: float
) -> dict[Key, list[Value]]:
    """Measure cases in rounds; returns the value of each case in each round.

    Every round measures every case once, in a new random order, so that temporary slowdowns of
    the machine affect all cases alike.

    Args:
        samplers: what to call, by case.
        rounds: number of rounds, at most; at least one is run.
        seconds: no round starts that would end later than that if it took as long as the longest
            round before it.
    """
    values: dict[Key, list[Value]] = {key: [] for key in samplers}
    order, rng = list(samplers), random.Random(0)
    began, longest = time.monotonic(), 0.0
    for number in range(rounds):
        start = time.monotonic()
        if number and start + longest - began > seconds:
            break
        rng.shuffle(order)
        for key in order:
            values[key].append(samplers[key]())
        longest = max(longest, time.monotonic() - start)
    return values


def seconds_sampler(run: Callable[[], Any]) -> Callable[[], float]:
    """A function that returns the median seconds of a call of `run`, after a warm-up call."""
    timer = Timer('run()', globals={'run': run}, num_threads=torch.get_num_threads())
    return lambda: timer.blocked_autorange(min_run_time=MIN_RUN_TIME).median


def matmul_sampler(device: torch.device) -> Callable[[], float]:
    """A function that returns the machine's float32 rate of a matrix product, in FLOP/s."""
    a, b = torch.rand(2, MATRIX_SIDE, MATRIX_SIDE, device=device)
    seconds = seconds_sampler(lambda: a @ b)
    return lambda: 2 * MATRIX_SIDE**3 / seconds()


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles over the rounds."""
    q1, median, q3 = np.quantile(list(values), [0.25, 0.5, 0.75]).tolist()
    return dict(median=median, q1=q1, q3=q3)


def ratio(baseline: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Speed-up over the baseline, round by round; above 1 is faster than the baseline."""
    return spread(b / s for b, s in zip(baseline, seconds))


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Peak memory of `run` in PyTorch's allocator, beyond what was allocated before.

    Memory that libraries allocate themselves, e.g. oneDNN's scratch on a CPU, is not counted.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # logs that it looks for a GPU
    gc.collect()  # so that garbage of earlier calls is not freed during this one
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / 'trace.json'
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    changes = [event for event in events if event.get('name') == '[memory]']
    changes.sort(key=lambda event: event['ts'])
    return max(accumulate(event['args']['Bytes'] for event in changes), default=0)


def saved_bytes(forward: Callable[[], Any], network: nn.Module) -> int:
    """Memory that `forward` saves for the backward pass, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward()
    del outputs  # keeps the saved tensors alive until here
    return sum(saved.values())


def choose_device(name: str | None) -> torch.device:
    """The device of that name; default: the GPU if there is one, else the CPU.

    Raises:
        UserError: CUDA without a GPU.
    """
    if name == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch finds no GPU here; use --device cpu')
    return torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))


@contextlib.contextmanager
def compiling(any_form: bool) -> Iterator[None]:
    """Let torch.compile start with an empty cache and compile for any number of sizes.

    Args:
        any_form: whether any form is compiled; otherwise nothing happens.

    Raises:
        UserError: there is no C++ compiler.
    """
    if not any_form:
        yield
        return
    import torch._dynamo
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.utils import fresh_cache

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            'torch.compile needs a C++ compiler and there is none: install g++, set CXX to your '
            'compiler, or drop the compiled forms'
        ) from error
    limits = torch._dynamo.config.patch(
        recompile_limit=256, accumulated_recompile_limit=4096, fail_on_recompile_limit_hit=True
    )
    with fresh_cache(), limits:
        torch.compile(torch.sin)(torch.ones(8))  # loads the compiler itself
        yield


@contextlib.contextmanager
def fixed_threads(threads: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads (default: its own choice); autotune convolutions on a GPU."""
    with (
        set_torch_threads(threads or torch.get_num_threads()),
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
    ):
        yield


def environment(device: torch.device) -> dict[str, Any]:
    """Date, machine and package versions, for the JSON file."""
    machine: dict[str, Any] = dict(
        system=f'{platform.system()} {platform.machine()}',
        processor=processor(),
        cores=num_cores(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        bfloat16=amp_available(),
        device=torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU',
    )
    if device.type == 'cuda':
        machine['cuda'] = torch.version.cuda
    return dict(date=time.strftime('%Y-%m-%d'), machine=machine, versions=versions())
