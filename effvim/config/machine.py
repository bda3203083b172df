"""TODO effvim.config.machine."""

from __future__ import annotations

import os

from mmengine.config import Config

from effvim.config.structure import LOADERS


def fit_to_machine(cfg: Config) -> None:
    """No more loader workers than cores, and processes that talk over what there is."""
    import torch

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
