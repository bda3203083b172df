"""How the benchmarks measure: interleaved rounds, memory, the machine and its matmul rate."""

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
from effvim.config.precision import amp_available

Key = TypeVar('Key', bound=Hashable)

Value = TypeVar('Value')

SIDE = 2048  # of the square matrices whose product says what the machine can do

REPEATED = 0.2  # seconds for which a case is repeated within a round, if one call takes less

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def interleaved(
    cases: Mapping[Key, Callable[[], Value]], rounds: int, seconds: float
) -> dict[Key, list[Value]]:
    """What each case gave in each round.

    Every round runs every case once, in an order drawn anew, so that what slows the machine down
    for a while falls on all of them.

    Args:
        cases: what to run.
        rounds: at most so many, at least one.
        seconds: no round begins that would, as long as the longest before it, end later than that.
    """
    found: dict[Key, list[Value]] = {key: [] for key in cases}
    order, draw = list(cases), random.Random(0)
    began, longest = time.monotonic(), 0.0
    for number in range(rounds):
        start = time.monotonic()
        if number and start + longest - began > seconds:
            break
        draw.shuffle(order)
        for key in order:
            found[key].append(cases[key]())
        longest = max(longest, time.monotonic() - start)
    return found


def seconds_of(run: Callable[[], Any]) -> Callable[[], float]:
    """Gives, when called, the median seconds of a call of `run`, after one that does not count."""
    timer = Timer('run()', globals={'run': run}, num_threads=torch.get_num_threads())
    return lambda: timer.blocked_autorange(min_run_time=REPEATED).median


def matmul(device: torch.device) -> Callable[[], float]:
    """Gives, when called, the machine's float32 rate on two matrices, FLOP/s."""
    a, b = torch.rand(2, SIDE, SIDE, device=device)
    seconds = seconds_of(lambda: a @ b)
    return lambda: 2 * SIDE**3 / seconds()


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles over the rounds."""
    q1, median, q3 = np.quantile(list(values), [0.25, 0.5, 0.75]).tolist()
    return dict(median=median, q1=q1, q3=q3)


def ratio(baseline: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """How many times faster than the baseline, round by round; above 1 is faster."""
    return spread(b / s for b, s in zip(baseline, seconds))


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """What `run` takes at its worst moment from PyTorch's allocator, beyond what was held before.

    What libraries allocate by themselves, e.g. oneDNN's scratch on a CPU, is not seen.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it looks for a GPU, aloud
    gc.collect()  # what earlier calls left behind is not freed while this one is watched
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    changes = [e for e in events if e.get('name') == '[memory]']
    changes.sort(key=lambda event: event['ts'])
    return max(accumulate(event['args']['Bytes'] for event in changes), default=0)


def saved_bytes(forward: Callable[[], Any], network: nn.Module) -> int:
    """What `forward` keeps for the backward pass, the network's own tensors not counted."""
    own = {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward()
    del outputs  # until here nothing that was saved is freed
    return sum(kept.values())


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the GPU where there is one.

    Raises:
        UserError: CUDA without a GPU.
    """
    if name == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch finds no GPU here; use --device cpu')
    return torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))


@contextlib.contextmanager
def compiling(any_form: bool) -> Iterator[None]:
    """Compiled forms, if there are, compile as on the first day and for as many sizes as asked.

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
            'torch.compile needs a C++ compiler and finds none: install g++ (or name '
            'yours in CXX), or leave out the compiled forms'
        ) from error
    limits = torch._dynamo.config.patch(
        recompile_limit=256, accumulated_recompile_limit=4096, fail_on_recompile_limit_hit=True
    )
    with fresh_cache(), limits:
        torch.compile(torch.sin)(torch.ones(8))  # loads the compiler itself
        yield


@contextlib.contextmanager
def settings(threads: int | None) -> Iterator[None]:
    """So many threads, by default as many as PyTorch takes; on a GPU the fastest convolutions."""
    with (
        set_torch_threads(threads or torch.get_num_threads()),
        torch.backends.cudnn.flags(enabled=True, benchmark=True),
    ):
        yield


def surroundings(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for the JSON."""
    machine: dict[str, Any] = dict(
        system=f'{platform.system()} {platform.machine()}',
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        bfloat16=amp_available(),
        device=torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU',
    )
    if device.type == 'cuda':
        machine['cuda'] = torch.version.cuda
    return dict(date=time.strftime('%Y-%m-%d'), machine=machine, versions=versions())


def processor() -> str:
    """The processor's name."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
