"""Peak memory of training a config, measured in a few steps."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import NamedTuple

import torch

from effvim.engine.memory import peak_memory, reset_peak_memory
from effvim.engine.settings import TrainSettings
from effvim.engine.single_steps import training_stepper
from effvim.engine.training import prepare_training

STEPS = 3  # the optimiser's state is allocated in the first


class TrainingMemory(NamedTuple):
    """Peak memory of training.

    Attributes:
        config: file name of the config.
        batch_size: images in a batch.
        mebibytes: peak memory in MiB.
        device: the GPU, or a CPU, whose figure is that of the whole process.
    """

    config: str
    batch_size: int
    mebibytes: int
    device: str

    def __str__(self) -> str:
        return f'{self.config}, batch {self.batch_size}: {self.mebibytes:,} MiB on {self.device}'


def measure_training_memory(settings: TrainSettings) -> TrainingMemory:
    """Train a few steps and return the peak memory.

    Pretrained weights are not downloaded: they take as much memory as random ones. Nothing is
    written to the working directory.

    Raises:
        UserError: as training.
    """
    options = {**settings.options, 'model.backbone.init_cfg': None}
    # the log in it is still open, which Windows minds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        prepared = prepare_training(
            dataclasses.replace(settings, work_dir=directory, options=options)
        )
        running, step = training_stepper(prepared.cfg, prepared.spec)
        loader = running.train_dataloader
        reset_peak_memory()
        for _, batch in zip(range(STEPS), loader):
            step(batch)
    return TrainingMemory(
        prepared.spec.config,
        prepared.cfg.train_dataloader.batch_size,
        peak_memory(),
        torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU, whole process',
    )
