"""What of a config depends on the machine."""

from __future__ import annotations

import os

import torch
from mmengine.config import Config

from effvim.config.structure import LOADERS


def fit_to_machine(cfg: Config) -> None:
    """Limit loader workers to the number of cores, and choose gloo where there is no GPU."""
    if not torch.cuda.is_available():
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None),
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    for loader in LOADERS:
        cfg[loader].num_workers = min(cfg[loader].num_workers, cores or 1)
        if not cfg[loader].num_workers:
            cfg[loader].persistent_workers = False
