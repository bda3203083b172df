"""Peak memory of a config's largest training step, measured in a process of its own.

The process that will train is not touched: its random states, its caches and its own peak stay as
they are, and what the measurement allocates is free again when it ends. A measurement that runs
out of memory ends alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from torch.nn import functional as F

from effvim.checkpoints import checkpoint as ckpt
from effvim.config.input_size import InputSize, largest_input
from effvim.config.run_spec import RunSpec
from effvim.config.structure import is_segmentor
from effvim.engine.memory import peak_memory, reset_peak_memory
from effvim.engine.out_of_memory import is_out_of_memory
from effvim.engine.single_steps import (
    is_too_small,
    measured_steps,
    training_stepper,
    without_weights,
)
from effvim.formats.anchors import resize_factors

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (1, 2, 4)  # images of the measured steps

LOOKED_AT = 10_000  # images, among which the measured ones have the most objects

# Of a launcher: the measurement is no rank.
LAUNCHER = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


@dataclasses.dataclass
class StepMemory:
    """Peak memory of training steps.

    Attributes:
        peaks: number of images: MiB until the gradients are there, ascending.
        optimizer: MiB in the optimiser's step, for any number of images.
        gradients: MiB of the gradients.
        exhausted: whether a step on more images ran out of memory.
        smallest: the smallest batch that the model can be trained on: BN over a single value, as in
            image pooling, needs two images.
        workers: MiB of the loader's workers for each image of a batch.
    """

    peaks: dict[int, int] = dataclasses.field(default_factory=dict)
    optimizer: int = 0
    gradients: float = 0.0
    exhausted: bool = False
    smallest: int = 1
    workers: float = 0.0

    def needed(self, images: int, copies: int = 0) -> float:
        """MiB that a step on a batch takes; infinite where a smaller one ran out of memory.

        Args:
            images: of the batch.
            copies: how many copies of the gradients there are: those of earlier batches that are
                accumulated, and those that ranks exchange.
        """
        more = self.workers * images + self.gradients * copies
        if images in self.peaks:
            return max(self.peaks[images], self.optimizer) + more
        measured = sorted(self.peaks)
        if self.exhausted or not measured:
            return float('inf')
        last = measured[-1]
        before = measured[-2] if len(measured) > 1 else 0
        slope = (self.peaks[last] - self.peaks.get(before, 0)) / (last - before)
        steps = self.peaks[last] + (images - last) * max(slope, 0.0)
        return max(steps, self.optimizer) + more


class MeasuringFailed(Exception):
    """The steps could not be taken, for another reason than memory; says which."""


def measure(cfg: Config, spec: RunSpec, available: int) -> StepMemory:
    """Measure steps on one, two and, where they surely fit, four images.

    Args:
        cfg: the config, ready to run; not changed.
        spec: what the run is.
        available: memory in bytes that there is.

    Raises:
        MeasuringFailed: see there.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cfg = without_weights(cfg)
        cfg.work_dir, cfg.launcher = folder, 'none'
        job, result = Path(folder, 'job'), Path(folder, 'result.json')
        content = {
            'cfg': cfg.to_dict(),
            'filename': cfg.filename,
            'spec': dataclasses.asdict(spec),
            'available': available,
            'device': torch.cuda.current_device() if torch.cuda.is_available() else None,
        }
        try:
            ckpt.write(job, content)  # JSON has no tuples
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise MeasuringFailed(str(error)) from error
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in LAUNCHER and not name.startswith('TORCHELASTIC')
        }
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, sys.path))
        code = 'import sys; from effvim.engine.step_memory import main; main(*sys.argv[1:])'
        done = subprocess.run(
            [sys.executable, '-c', code, job, result],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
        )
        measured = StepMemory(**(json.loads(result.read_text()) if result.exists() else {}))
        measured.peaks = {int(images): peak for images, peak in measured.peaks.items()}
        if done.returncode == -getattr(signal, 'SIGKILL', 9):  # by the system, as it seems
            measured.exhausted = True
        elif done.returncode:
            raise MeasuringFailed((done.stderr.strip().splitlines() or ['no message'])[-1])
        return measured


def main(job: str, result: str) -> None:
    """Be the process that measures; see `measure`."""
    content = ckpt.read_file(job)
    cfg, device = Config(content['cfg'], filename=content['filename']), content['device']
    if sys.platform == 'linux':  # if memory runs out, end this process before any other
        Path('/proc/self/oom_score_adj').write_text('1000')
    if device is not None:
        torch.cuda.set_device(device)
    running, step = training_stepper(cfg, RunSpec.from_dict(content['spec']))
    loader = running.train_dataloader
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    largest = largest_input(cfg)
    samples = _LargestSamples(loader.dataset, cfg, largest)
    measured = StepMemory()
    if device is None and largest:  # a worker holds the batches that it has loaded ahead
        prefetched = cfg.train_dataloader.get('prefetch_factor') or 2
        workers = cfg.train_dataloader.get('num_workers', 0)
        measured.workers = workers * prefetched * 3 * largest.pixels / 2**20

    optimizer = running.optim_wrapper.optimizer
    trained = [p for group in optimizer.param_groups for p in group['params']]
    measured.gradients = sum(p.numel() * p.element_size() for p in trained) / 2**20
    # the optimiser's own peak does not grow with the batch: apart from what does
    grown: list[int] = []
    ended: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: grown.append(peak_memory()))

    def after_step(*_: Any) -> None:
        ended.append(peak_memory())
        reset_peak_memory()

    optimizer.register_step_post_hook(after_step)

    def keep() -> None:
        unfinished = Path(f'{result}.new')
        unfinished.write_text(json.dumps(dataclasses.asdict(measured)))
        unfinished.replace(result)

    def take(sizes: list[int]) -> None:
        for taken in measured_steps(step, loader.collate_fn, samples.take, sizes):
            # a scaled loss that overflows skips the optimiser
            measured.peaks[taken.images] = grown[-1] if grown else taken.mebibytes
            grown.clear()
            # on a CPU, what a larger batch has freed may still count as the process's
            measured.optimizer = measured.optimizer or (ended[-1] if ended else 0)
            keep()
            needed = measured.needed(2 * taken.images) * 2**20
            if len(measured.peaks) == 2 and 2 * needed > content['available']:
                break

    sizes = [size for size in SIZES if size <= batch_size]
    try:
        try:
            take(sizes)
        except ValueError as error:
            if not is_too_small(error):
                raise
            measured.smallest = 2
            take([size for size in sizes if size > 1] or [2])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        measured.exhausted = True
    keep()


class _LargestSamples:
    """Samples of the training data, those with the most objects first, as large as any can be.

    A detector's images are padded to the largest of a batch; here all are padded to the largest
    size of the dataset.
    """

    def __init__(self, dataset: Any, cfg: Config, largest: InputSize | None) -> None:
        self.dataset = dataset
        inner = getattr(dataset, 'dataset', dataset)
        number = min(len(dataset), LOOKED_AT)
        indices = np.linspace(0, len(dataset) - 1, number).astype(int).tolist()
        objects, sizes = [], []
        if hasattr(inner, 'get_data_info'):
            for i in indices:
                info = inner.get_data_info(i)
                objects.append(len(info.get('instances') or ()))
                if 'width' in info and 'height' in info:
                    sizes.append((info['width'], info['height']))
        self.indices = [i for _, i in sorted(zip(objects, indices), reverse=True)] or indices
        self.shape = (0, 0)  # width and height
        if largest and not is_segmentor(cfg):  # those pad to the size of the crop anyway
            by_orientation = 'AspectRatio' in str(cfg.train_dataloader.get('batch_sampler'))
            self.shape = padded_shape(largest, np.array(sizes), by_orientation)

    def take(self, number: int) -> list[Any]:
        """That many samples."""
        samples = [self.dataset[self.indices[i % len(self.indices)]] for i in range(number)]
        for sample in samples:
            if isinstance(sample.get('inputs'), torch.Tensor):
                sample['inputs'] = self._pad(sample['inputs'])
        return samples

    def _pad(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return F.pad(image, (0, max(self.shape[0] - width, 0), 0, max(self.shape[1] - height, 0)))


def padded_shape(largest: InputSize, sizes: np.ndarray, by_orientation: bool) -> tuple[int, int]:
    """Width and height that a batch is padded to at most.

    Args:
        largest: the largest input that the pipeline says.
        sizes: widths and heights of the images, N 2; may be empty.
        by_orientation: whether a batch holds only landscape or only portrait images.
    """
    if largest.fixed:
        return largest.width, largest.height
    scale = (largest.width, largest.height)
    if not len(sizes):
        return (max(scale), min(scale)) if by_orientation else (max(scale), max(scale))
    resized = np.round(sizes * resize_factors(sizes, scale)[:, None])
    tall = sizes[:, 0] < sizes[:, 1]
    groups = [resized[tall], resized[~tall]] if by_orientation else [resized]
    shapes = [group.max(0) for group in groups if len(group)]
    width, height = max(shapes, key=lambda shape: float(shape.prod()))
    return int(width), int(height)
