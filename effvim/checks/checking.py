"""Everything that a run would meet: the environment, and with a config data, weights and cost."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import UserError
from effvim.checks import cost, dataset, environment
from effvim.checks.findings import Report
from effvim.config.machine import num_cores
from effvim.config.prepare import PreparedRun, prepare
from effvim.config.run_spec import RunSpec
from effvim.datasets.garbage_collection import garbage_collection_paused
from effvim.engine import optimizer


def check(
    config: str | None,
    asked: RunSpec,
    *,
    work_dir: str | Path = 'work_dirs',
    workers: int | None = None,
    quick: bool = False,
) -> Report:
    """Check the environment and, with a config, what training it would meet.

    Args:
        config: path or name of a config; None for the environment alone.
        asked: the choices with which it would be trained.
        work_dir: where results would go.
        workers: processes that decode images, 0 for this one alone (default: one per core).
        quick: decode no images and measure no training steps.

    Raises:
        UserError: the config is absent or malformed.
    """
    prepared = None
    if config:
        prepared = prepare(config, asked, check=lambda cfg: optimizer.check_keys(cfg.optim_wrapper))
    report = Report()
    environment.examine(report, Path(work_dir))
    if prepared:
        cores = num_cores()
        _check_run(prepared, report, (cores or 1) if workers is None else workers, quick)
    return report


def _check_run(prepared: PreparedRun, report: Report, workers: int, quick: bool) -> None:
    """Check data and weights and, if nothing is wrong with them, measure what training takes."""
    with garbage_collection_paused():
        dataset.examine(prepared.cfg, report, workers, quick)
    cost.weights(prepared.cfg, report)
    if not quick and not report.problems:
        try:
            cost.cost(prepared.cfg, prepared.spec, report)
        except UserError as error:
            report.problem('cost', str(error))
