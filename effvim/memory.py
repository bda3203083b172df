"""How much memory training takes: three steps of a config, on the device that there is.

    python -m effvim.memory CONFIG --cfg-options train_dataloader.batch_size=4 …

The command line is that of tools/train.py. Pretrained weights are not fetched, they take no other
room than random ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import cli, train

if TYPE_CHECKING:
    from mmengine.config import Config

STEPS = 3  # the optimiser's state is there from the second on


def main(argv: Sequence[str] | None = None) -> None:
    """Take the steps, print the peak.

    Raises:
        UserError: as tools/train.py.
    """
    args = train.parse(argv)
    args.cfg_options.append('model.backbone.init_cfg=None')
    with tempfile.TemporaryDirectory() as args.work_dir:  # a run of this config may be there
        cfg, about = train.prepare(args)

        from .hooks import peak_memory, reset_peak_memory

        running, step = stepper(cfg, about)
        loader = running.train_dataloader
        reset_peak_memory()
        for _, batch in zip(range(STEPS), loader):
            step(batch)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'a CPU, whole process'
    print(f'{about["config"]}, batch {cfg.train_dataloader.batch_size}: {peak_memory():,} MiB on '
          f'{device}')


def stepper(cfg: Config, about: Mapping[str, Any]) -> tuple[Any, Callable[[Any], float]]:
    """A runner of a config, and what takes one training step on a batch and returns its seconds."""
    from .config import import_plugins
    from .runner import Runner

    import_plugins(cfg)
    running = Runner(cfg, about)
    optim_wrapper = running.build_optim_wrapper(cfg.optim_wrapper)
    running.model.train()

    def step(batch: Any) -> float:
        began = time.perf_counter()
        running.model.train_step(batch, optim_wrapper)  # reads the losses, so a GPU has finished
        return time.perf_counter() - began

    return running, step


if __name__ == '__main__':
    sys.exit(cli.run(main))
