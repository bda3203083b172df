"""`effvim train --dry-run`: two iterations of everything that a run does; nothing is kept."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from mmengine.config import Config

from backbone.errors import UserError
from effvim import console
from effvim.checks import cost
from effvim.checks.findings import Report
from effvim.config.prepare import PreparedRun
from effvim.config.reading import import_plugins
from effvim.engine import fitting_batch, lock
from effvim.engine.progress import position_of
from effvim.engine.settings import TrainSettings
from effvim.engine.training import prepare_training

STEPS = 2  # in each of the two halves, before and after resuming


def dry_run(settings: TrainSettings) -> None:
    """Train, save, evaluate and resume once, then print what the whole run would take.

    Runs in a temporary directory, on the first images of the dataset.

    Args:
        settings: those of the run.

    Raises:
        UserError: as training; with a launcher, or with `resume`.
    """
    if settings.resume or settings.launcher != 'none':
        raise UserError(
            '--dry-run tries out a new run on one process: drop --resume and --launcher'
        )
    # the log in it is still open, which Windows minds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = Report()
        settings = dataclasses.replace(settings, work_dir=folder)
        first = _half(settings, 1, report)
        # a run may be as short as its first half: the second must not find it finished; what
        # --data chose is remembered in the checkpoint
        length = 'max_iters' if 'max_iters' in first.cfg.train_cfg else 'max_epochs'
        options = {**settings.options, f'train_cfg.{length}': 2 * STEPS}
        second = dataclasses.replace(settings.without_data(), resume=True, options=options)
        _half(second, 2, report)
    console.say(report.text(), 'dry run: everything works; nothing was kept')


def _half(settings: TrainSettings, number: int, report: Report) -> PreparedRun:
    """Train for `STEPS` iterations: the first half from the start, the second one resumed."""
    prepared = prepare_training(settings)
    import_plugins(prepared.cfg)

    from effvim.engine import runner

    if number == 1:
        fitting_batch.ensure_fits(prepared, settings.auto_batch)
        cost.cost(prepared.cfg, prepared.spec, report)
    shorten(prepared.cfg, number)
    running = runner.Runner(prepared.cfg, prepared.spec)
    with lock.held(Path(prepared.cfg.work_dir)), runner.closing(running):
        running.train()
    console.say(
        f'dry run: {"resumed, " if number == 2 else ""}trained to {position_of(running)}, saved, '
        f'evaluated'
    )
    return prepared


def shorten(cfg: Config, half: int) -> None:
    """Let `cfg` end after `half` times `STEPS` iterations on as many batches."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        # workers that stay would wait for more
        loader.dataset.indices = STEPS * (loader.get('batch_size') or 1)
        loader.update(num_workers=min(loader.num_workers, 1), persistent_workers=False)
    by_epoch = 'max_iters' not in cfg.train_cfg
    every = 1 if by_epoch else STEPS
    cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.train_cfg.update(
        val_interval=every, **{'max_epochs' if by_epoch else 'max_iters': half * every}
    )
    cfg.default_hooks.checkpoint.update(interval=every, by_epoch=by_epoch)
