"""`tools/train.py --dry-run`: two iterations of everything that a run does, nothing kept."""

from __future__ import annotations

import copy
import tempfile
from argparse import Namespace
from pathlib import Path

from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.reading import import_plugins
from effvim.engine import lock

STEPS = 2  # in each of the two halves, before and after resuming


def rehearse(args: Namespace) -> None:
    """Train, save, evaluate, resume, once more; then say what the whole would take.

    In a temporary folder, on the first pictures of the data. args: as of `tools/train.py`.

    Raises:
        UserError: as training; several processes; `--resume`, whose own run is the rehearsal.
    """
    from effvim.checks import cost
    from effvim.checks.findings import Report
    from effvim.engine import runner, training
    from effvim.engine.progress import position_of

    if args.resume or args.launcher != 'none':
        raise UserError(
            '--dry-run rehearses a new run on one process: leave out --resume and --launcher'
        )
    with tempfile.TemporaryDirectory() as folder:
        args = copy.copy(args)
        args.work_dir = folder
        report = Report()
        for half, args.resume in enumerate((None, 'latest'), 1):
            cfg, about = training.prepare(args)
            import_plugins(cfg)
            if half == 1:
                cost.cost(cfg, about, report)
            shorten(cfg, half)
            # for the second half: a run may be as short as the first, and --data is remembered
            length = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
            args.cfg_options = [*args.cfg_options, f'train_cfg.{length}={2 * STEPS}']
            args.data = args.epochs = None
            running = runner.Runner(cfg, about)
            with lock.held(Path(folder)), runner.closing(running):
                running.train()
            print(
                f'dry run: {"resumed, " if args.resume else ""}trained to {position_of(running)},'
                f' saved, evaluated',
                flush=True,
            )
    print(report.text())
    print('dry run: everything works; nothing was kept')


def shorten(cfg: Config, half: int) -> None:
    """Let `cfg` end after `half` times `STEPS` iterations on as many batches."""
    loaders = (cfg.train_dataloader, cfg.val_dataloader)
    for loader in loaders:
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
