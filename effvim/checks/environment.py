"""Checks of the environment: versions, operators, device, precision, disk, memory, threads."""

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
from effvim.config.machine import num_cores
from effvim.config.precision import SLOWER, amp_available, amp_is_faster
from effvim.engine.memory import machine_memory
from effvim.resources import REQUIREMENTS

SECTION = 'environment'

ALTERNATIVES = {names[0]: names[1:] for names in PACKAGES.values()}  # the original packages

MATRIX_SIDE = 512  # of the square matrices whose products are timed


def examine(report: Report, folder: Path) -> None:
    """Check the environment; `folder` is where results would go."""
    versions(report)
    operators(report)
    device(report)
    precision(report)
    disk(report, folder)
    memory(report)
    threads(report)


def tested_versions() -> dict[str, str]:
    """The tested version of each package, for this Python."""
    lines = (line.partition('#')[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    return {
        pin.name: next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def installed_version(name: str) -> str | None:
    """The installed version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions(report: Report) -> None:
    """Compare packages with the tested versions: absent is a problem, other versions are a note."""
    report.fact(SECTION, 'python', f'{platform.python_version()} on {platform.platform()}')
    installed, differences = {}, []
    for name, tested in tested_versions().items():
        own = installed_version(name)
        others = [
            f'{other} {other_version}'
            for other in ALTERNATIVES.get(name, ())
            if (other_version := installed_version(other))
        ]
        if own is None and not others and name != 'opencv-python':  # the headless one suffices
            report.problem(
                SECTION, f'package {name} is not installed: pip install {name}=={tested}'
            )
        elif own is None and others:
            differences.append(f'{others[0]} instead of {name} {tested}')
        elif own is not None and own.partition('+')[0] != tested:
            differences.append(f'{name} {own}, tested is {tested}')
        installed[name] = own or ''.join(others[:1])
    report.fact(
        SECTION,
        'packages',
        f'{len(installed) - len(differences)} of {len(installed)} as tested',
        **installed,
    )
    report.note(SECTION, 'packages differ from the tested versions', differences)


def operators(report: Report) -> None:
    """Report whose NMS and RoIAlign are used, and check that they run."""
    spec = importlib.util.find_spec('mmcv._ext') if importlib.util.find_spec('mmcv') else None
    own = spec is not None and spec.origin != 'backbone.openmmlab.ops'  # else our replacement
    report.fact(
        SECTION, 'operators', "mmcv's, compiled" if own else "torchvision's, in the place of mmcv's"
    )
    try:
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:  # built for another torch
        report.problem(
            SECTION,
            f'torchvision does not fit torch ({error}): install versions that belong together',
        )


def device(report: Report) -> None:
    """Report the devices that training would run on."""
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            report.fact(
                SECTION,
                f'GPU {i}',
                f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB, '
                f'CUDA {torch.version.cuda}',
            )
    else:
        report.fact(
            SECTION,
            'device',
            f'CPU with {torch.backends.cpu.get_cpu_capability()} instructions; no GPU that '
            f'PyTorch can use',
        )


def precision(report: Report) -> None:
    """Report the speed of 16-bit matrix products relative to float32, and whether --amp works."""
    where = 'cuda' if torch.cuda.is_available() else 'cpu'
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix('torch.')
        try:
            seconds[name] = _seconds(where, dtype)
        except RuntimeError:  # not available on this device
            continue
    ratios = {name: round(seconds['float32'] / value, 2) for name, value in seconds.items()}
    listed = ', '.join(
        f'{name} {ratio:.1f} times float32' for name, ratio in ratios.items() if name != 'float32'
    )
    report.fact(
        SECTION,
        'precision',
        f'--amp is {"" if amp_available() else "not "}available; speed of matrix products: '
        f'{listed}',
        **ratios,
    )
    if amp_available() and not amp_is_faster():
        report.note(SECTION, SLOWER)


def _seconds(where: str, dtype: torch.dtype) -> float:
    """Seconds of a product of two square matrices, the faster of two after a warm-up."""
    matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE, dtype=dtype, device=where)
    timings = []
    for _ in range(3):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for a GPU
        timings.append(time.perf_counter() - began)
    return min(timings[1:])


def disk(report: Report, folder: Path) -> None:
    """Report the free disk space where results would go."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    report.fact(
        SECTION, 'disk', f'{free / 2**30:.1f} GiB free at {folder.absolute()}', free_bytes=free
    )
    if free < 2**30:
        report.note(
            SECTION,
            f'less than 1 GiB is free at {folder.absolute()}: a checkpoint with the state of its '
            f'optimiser takes up to 0.5 GiB',
        )


def memory(report: Report) -> None:
    """Report the memory of the machine."""
    total, available = machine_memory()
    report.fact(
        SECTION,
        'memory',
        f'{total / 2**30:.1f} GiB, {available / 2**30:.1f} available',
        total_bytes=total,
        available_bytes=available,
    )


def threads(report: Report) -> None:
    """Report the number of threads and the environment variables that set it."""
    cores = num_cores()
    variables = (
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
        f'{cv2.getNumThreads()}, on {cores} cores; {variables}',
        torch=torch.get_num_threads(),
        opencv=cv2.getNumThreads(),
        cores=cores,
    )
