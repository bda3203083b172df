"""`tools/check.py`: what a run would meet: the environment, and with a config data and weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from mmengine.config import Config


def prepare(args: Namespace) -> tuple[Config, dict[str, Any]]:
    """The config as it would be trained, nothing on disk checked yet, and its description."""
    from effvim.config.prepare import apply_spec
    from effvim.config.reading import load_config
    from effvim.config.run_spec import describe, overlays_of
    from effvim.config.validation import check_model
    from effvim.engine import optimizer

    cfg = load_config(args.config)
    about = describe(args, overlays_of(args))
    apply_spec(cfg, about)
    optimizer.check_keys(cfg.optim_wrapper)
    check_model(cfg)
    return cfg, about


def examine(cfg: Config, about: dict[str, Any], args: Namespace, report: Any) -> None:
    """Data, weights, and, if nothing is wrong with them, what training would take."""
    from effvim.checks import cost, dataset
    from effvim.datasets.collection import garbage_collection_paused

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = (cores or 1) if args.workers is None else args.workers
    with garbage_collection_paused():
        dataset.examine(cfg, report, workers, args.quick)
    cost.weights(cfg, report)
    if not args.quick and not report.problems:
        try:
            cost.cost(cfg, about, report)
        except UserError as error:
            report.problem('cost', str(error))
