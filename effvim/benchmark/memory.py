"""TODO effvim.benchmark.memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from effvim.cli import (
    train,
)
from effvim.engine import training

if TYPE_CHECKING:
    pass
from effvim.engine.memory import STEPS, stepper


def main(argv: Sequence[str] | None = None) -> None:
    """Take the steps, print the peak.

    Raises:
        UserError: as tools/train.py.
    """
    args = train.parse(argv)
    args.cfg_options.append('model.backbone.init_cfg=None')
    with tempfile.TemporaryDirectory() as args.work_dir:  # a run of this config may be there
        cfg, about = training.prepare(args)

        from effvim.engine.memory import peak_memory, reset_peak_memory

        running, step = stepper(cfg, about)
        loader = running.train_dataloader
        reset_peak_memory()
        for _, batch in zip(range(STEPS), loader):
            step(batch)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU, whole process'
    print(
        f'{about["config"]}, batch {cfg.train_dataloader.batch_size}: {peak_memory():,} MiB on '
        f'{device}'
    )
