"""What depends on the machine; importing this needs no torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from effvim.config.structure import LOADERS

if TYPE_CHECKING:
    from mmengine.config import Config


def num_cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, e.g. Intel(R) Xeon(R) Processor."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def fit_to_machine(cfg: Config) -> None:
    """Limit loader workers to the number of cores, and choose gloo where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None),
        )
    for loader in LOADERS:
        cfg[loader].num_workers = min(cfg[loader].num_workers, num_cores())
        if not cfg[loader].num_workers:
            cfg[loader].persistent_workers = False


def forget_machine(cfg: Config) -> None:
    """Undo what a config that training wrote has of that machine, of its launcher and its logs."""
    cfg.launcher = 'none'
    cfg.pop('model_wrapper_cfg', None)
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'nccl'})  # as every config says
    visualizer = cfg.get('visualizer') or {}
    if visualizer.get('vis_backends'):
        visualizer.vis_backends = [
            backend
            for backend in visualizer.vis_backends
            if backend.type != 'TensorboardVisBackend'
        ]
