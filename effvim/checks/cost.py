"""What training takes: weights that fit, memory and time, estimated from a few steps."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

from mmengine.config import Config

from backbone.errors import UserError
from effvim.checkpoints import checkpoint
from effvim.checkpoints.matching import fit_state_dict
from effvim.checks.findings import Report
from effvim.config.classes import class_layers
from effvim.config.machine import fit_to_machine
from effvim.config.run_spec import RunSpec
from effvim.config.weights import backbone_tensors, fetch_weights
from effvim.engine.memory import available_memory
from effvim.engine.progress import format_duration
from effvim.engine.single_steps import (
    is_too_small,
    measured_steps,
    training_stepper,
    without_weights,
)


def weights(cfg: Config, report: Report) -> None:
    """Report where the weights come from and whether all tensors fit."""
    try:
        fetch_weights(cfg)
    except UserError as error:
        report.problem('weights', str(error))
        return
    init_cfg = cfg.model.backbone.get('init_cfg')
    if cfg.get('load_from'):
        report.fact('weights', 'model', f'from {cfg.load_from}')
    elif isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        number = len(backbone_tensors(cfg.model.backbone))
        report.fact(
            'weights',
            'backbone',
            f'{number} of {number} tensors from {init_cfg["checkpoint"]}',
            file=init_cfg['checkpoint'],
            tensors=number,
        )
    else:
        report.fact('weights', 'backbone', 'randomly initialised')


def cost(cfg: Config, spec: RunSpec, report: Report) -> None:
    """Report memory and time of training, estimated from a step on one image and one on two.

    Where the model cannot be trained on one image, they are of two and of four.

    The estimate extrapolates linearly to the batch size; it is rough, since images differ in size
    and the machine may be doing other work.
    """
    load_from, cfg = cfg.get('load_from'), without_weights(cfg)
    fit_to_machine(cfg)
    # the log in it is still open, which Windows minds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cfg.work_dir:
        running, step = training_stepper(cfg, spec)
        if load_from:
            _check_weights(load_from, running, report)
        loader = running.train_dataloader

        def samples(number: int) -> list[Any]:
            return [loader.dataset[i % len(loader.dataset)] for i in range(number)]

        try:
            steps_taken = list(measured_steps(step, loader.collate_fn, samples, (1, 2)))
        except ValueError as error:
            if not is_too_small(error):
                raise
            steps_taken = list(measured_steps(step, loader.collate_fn, samples, (2, 4)))
    seconds = [taken.seconds for taken in steps_taken]
    peaks = [taken.mebibytes for taken in steps_taken]
    smallest = steps_taken[0].images  # the other one has twice as many
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    num_images = len(loader.dataset)
    mebibytes, step_seconds = (
        first + (batch_size / smallest - 1) * max(second - first, 0)
        for first, second in (peaks, seconds)
    )
    mebibytes = round(mebibytes)
    train_cfg, epoch_steps = cfg.train_cfg, -(-num_images // batch_size)
    steps = train_cfg.get('max_iters') or train_cfg.get('max_epochs', 1) * epoch_steps
    report.fact(
        'cost',
        'memory',
        f'about {mebibytes:,} MiB with a batch of {batch_size} images',
        mebibytes=mebibytes,
        batch_size=batch_size,
        measured=peaks,
    )
    report.fact(
        'cost',
        'time',
        f'about {step_seconds:.2f} s per step, {format_duration(step_seconds * epoch_steps)} per '
        f'epoch of {num_images:,} images, {format_duration(step_seconds * steps)} for the whole '
        f'run of {steps:,} steps, on one process',
        seconds_per_step=step_seconds,
        seconds_per_epoch=step_seconds * epoch_steps,
        seconds=step_seconds * steps,
        measured=seconds,
    )
    available = available_memory()
    if mebibytes * 2**20 > available:
        report.note(
            'cost',
            f'a batch of {batch_size} images needs about {mebibytes:,} MiB, available are '
            f'{available // 2**20:,}: lower train_dataloader.batch_size, and raise '
            f'optim_wrapper.accumulative_counts instead',
        )


def _check_weights(path: str, running: Any, report: Report) -> None:
    """Report whether `load_from` fits the model, apart from the class layers."""
    state = checkpoint.read(path)['state_dict']
    try:
        fit_state_dict(running.model, state, path, functools.partial(class_layers, running.cfg))
    except UserError as error:
        report.problem('weights', str(error))
        return
    own = running.model.state_dict()
    fit = sum(own[name].shape == value.shape for name, value in state.items() if name in own)
    report.fact(
        'weights',
        'tensors',
        f'{fit} of {len(own)} fit, the others are class layers and randomly initialised',
        fit=fit,
        wanted=len(own),
    )
