"""The environment: versions beside the tested ones, operators, device, precision, room, threads."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import torch
from packaging.requirements import Requirement

from effvim.checkpoints.versions import PACKAGES
from effvim.checks.findings import Report
from effvim.config.precision import amp_available
from effvim.engine.memory import machine_memory
from effvim.resources import REQUIREMENTS

SECTION = 'environment'

ALTERNATIVES = {names[0]: names[1:] for names in PACKAGES.values()}  # upstream's distributions

SIDE = 512  # of the square matrices whose products are timed


def examine(report: Report, folder: Path) -> None:
    """Everything but the data; `folder` is where results would go."""
    versions(report)
    operators(report)
    device(report)
    precision(report)
    room(report, folder)
    threads(report)


def tested() -> dict[str, str]:
    """The tested version of each distribution, for this Python."""
    lines = (line.partition('#')[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    return {
        pin.name: next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(report: Report) -> None:
    """Each tested package: absent is a problem, another version is worth a note."""
    report.fact(SECTION, 'python', f'{platform.python_version()} on {platform.platform()}')
    found, differ = {}, []
    for name, wanted in tested().items():
        have = installed(name)
        others = [
            f'{other} {has}' for other in ALTERNATIVES.get(name, ()) if (has := installed(other))
        ]
        if have is None and not others and name != 'opencv-python':  # the headless one suffices
            report.problem(
                SECTION, f'package {name} is not installed: pip install {name}=={wanted}'
            )
        elif have is None and others:
            differ.append(f'{others[0]} instead of {name} {wanted}')
        elif have is not None and have.partition('+')[0] != wanted:
            differ.append(f'{name} {have}, tested is {wanted}')
        found[name] = have or ''.join(others[:1])
    report.fact(
        SECTION, 'packages', f'{len(found) - len(differ)} of {len(found)} as tested', **found
    )
    report.note(SECTION, 'packages are not those that were tested', differ)


def operators(report: Report) -> None:
    """Whose NMS and RoIAlign run, and that they do."""
    spec = importlib.util.find_spec('mmcv._ext') if importlib.util.find_spec('mmcv') else None
    own = spec is not None and spec.origin != 'backbone.openmmlab.ops'  # ours stands in for it
    report.fact(
        SECTION, 'operators', "compiled, mmcv's" if own else "torchvision's, where mmcv has none"
    )
    try:
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:  # of another torch
        report.problem(
            SECTION,
            f'torchvision does not fit torch ({error}): install the pair of '
            f'versions that belong together',
        )


def device(report: Report) -> None:
    """What training would run on."""
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            report.fact(
                SECTION,
                f'GPU {i}',
                f'{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}',
            )
    else:
        report.fact(
            SECTION,
            'device',
            f'a CPU with {torch.backends.cpu.get_cpu_capability()} '
            f'instructions; no GPU that PyTorch can use',
        )


def precision(report: Report) -> None:
    """How fast products of 16-bit numbers are beside float32's, where training would run."""
    where = 'cuda' if torch.cuda.is_available() else 'cpu'
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix('torch.')
        try:
            seconds[name] = _seconds(where, dtype)
        except RuntimeError:  # not on this device
            continue
    ratios = {name: round(seconds['float32'] / took, 2) for name, took in seconds.items()}
    listed = ', '.join(
        f'{name} {ratio:.1f} times float32' for name, ratio in ratios.items() if name != 'float32'
    )
    report.fact(
        SECTION,
        'precision',
        f'--amp {"can" if amp_available() else "cannot"} be used; '
        f'speed of matrix products: {listed}',
        **ratios,
    )


def _seconds(where: str, dtype: torch.dtype) -> float:
    """For one product of square matrices, the faster of two after one that is not counted."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=where)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for a GPU
        took.append(time.perf_counter() - began)
    return min(took[1:])


def room(report: Report, folder: Path) -> None:
    """Free disk space where results go, memory of the machine."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    report.fact(
        SECTION, 'disk', f'{free / 2**30:.1f} GiB free at {folder.absolute()}', free_bytes=free
    )
    if free < 2**30:
        report.note(
            SECTION,
            f'less than 1 GiB is free at {folder.absolute()}: a checkpoint with '
            f'the state of its optimiser takes up to 0.5 GiB',
        )
    memory, available = machine_memory()
    report.fact(
        SECTION,
        'memory',
        f'{memory / 2**30:.1f} GiB, {available / 2**30:.1f} free',
        total_bytes=memory,
        free_bytes=available,
    )


def threads(report: Report) -> None:
    """How many threads compute, and what was said about it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    said = (
        ', '.join(
            f'{name}={os.environ[name]}'
            for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
            if name in os.environ
        )
        or 'OMP_NUM_THREADS not set'
    )
    report.fact(
        SECTION,
        'threads',
        f'PyTorch {torch.get_num_threads()}, OpenCV '
        f'{cv2.getNumThreads()}, on {cores} cores; {said}',
        torch=torch.get_num_threads(),
        opencv=cv2.getNumThreads(),
        cores=cores,
    )
