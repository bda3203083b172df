"""What training would take: weights that fit, and memory and time from a few steps."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config

from backbone.errors import UserError
from effvim.checkpoints import checkpoint
from effvim.checks.findings import Report
from effvim.config.machine import fit_to_machine
from effvim.config.weights import backbone_tensors, fetch_weights
from effvim.engine.memory import machine_memory


def weights(cfg: Config, report: Report) -> None:
    """Which file the weights are from, and how many tensors fit; none may be missing."""
    try:
        fetch_weights(cfg)
    except UserError as error:
        report.problem('weights', str(error))
        return
    start = cfg.model.backbone.get('init_cfg')
    if cfg.get('load_from'):
        report.fact('weights', 'model', f'from {cfg.load_from}')
    elif isinstance(start, dict) and start.get('type') == 'Pretrained':
        number = len(backbone_tensors(cfg.model.backbone))
        report.fact(
            'weights',
            'backbone',
            f'{number} of {number} tensors from {start["checkpoint"]}',
            file=start['checkpoint'],
            tensors=number,
        )
    else:
        report.fact('weights', 'backbone', 'random, no file')


def cost(cfg: Config, about: Mapping[str, Any], report: Report) -> None:
    """Memory and time of a step of one picture and of one of two, and what follows for the batch.

    A straight line through two points: images differ in size and machines in what else they do, so
    it is an estimate.
    """
    from effvim.checkpoints.matching import fit_state_dict
    from effvim.engine.memory import peak_memory, reset_peak_memory, stepper
    from effvim.engine.progress import format_duration

    cfg = copy.deepcopy(cfg)
    fit_to_machine(cfg)
    load_from, cfg.load_from = cfg.get('load_from'), None
    cfg.model.backbone.init_cfg = None  # random weights take as much room
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        running, step = stepper(cfg, about)
        if load_from:
            _fit(load_from, running, fit_state_dict, report)
        loader = running.train_dataloader
        reset_peak_memory()
        step(loader.collate_fn([loader.dataset[0]]))  # the optimiser's state is there afterwards
        seconds, peaks = [], []
        for size in (1, 2):
            batch = [loader.dataset[i % len(loader.dataset)] for i in range(size)]
            seconds.append(step(loader.collate_fn(batch)))
            peaks.append(peak_memory())
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    pictures = len(loader.dataset)
    mebibytes, each = (
        first + (batch_size - 1) * max(second - first, 0) for first, second in (peaks, seconds)
    )
    train_cfg, steps = cfg.train_cfg, -(-pictures // batch_size)
    whole = train_cfg.get('max_iters') or train_cfg.get('max_epochs', 1) * steps
    report.fact(
        'cost',
        'memory',
        f'about {mebibytes:,} MiB with {batch_size} pictures a batch',
        mebibytes=mebibytes,
        batch_size=batch_size,
        measured=peaks,
    )
    report.fact(
        'cost',
        'time',
        f'about {each:.2f} s a step, {format_duration(each * steps)} for all '
        f'{pictures:,} pictures once, {format_duration(each * whole)} for the '
        f'whole run of {whole:,} steps, on one process',
        seconds_a_step=each,
        seconds_an_epoch=each * steps,
        seconds=each * whole,
        measured=seconds,
    )
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else machine_memory()[1]
    if mebibytes * 2**20 > free:
        report.note(
            'cost',
            f'{batch_size} pictures a batch need about {mebibytes:,} MiB, free are '
            f'{free // 2**20:,}: lower train_dataloader.batch_size, and raise '
            f'optim_wrapper.accumulative_counts instead',
        )


def _fit(path: str, running: Any, fitting: Any, report: Report) -> None:
    """Whether the file that a whole model starts from fits it but for the classes."""
    state = checkpoint.read(path)['state_dict']
    try:
        fitting(running.model, state, path, running.cfg)
    except UserError as error:
        report.problem('weights', str(error))
        return
    own = running.model.state_dict()
    fit = sum(own[name].shape == value.shape for name, value in state.items() if name in own)
    report.fact(
        'weights',
        'tensors',
        f'{fit} of {len(own)} fit, the others are those of the classes',
        fit=fit,
        wanted=len(own),
    )
