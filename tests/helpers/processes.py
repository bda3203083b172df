"""Run commands on several ranks, forked from this process to save the seconds of importing mmdet.

    python -m tests.helpers.processes

A line of JSON on stdin is a job, see `run_job`; the line of JSON on stdout is its result.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from mmengine.hooks import Hook

from effvim.config.reading import import_plugins, load_config
from effvim.engine import runner, testing, training  # noqa: F401  loaded before the fork
from effvim.inference import batch_inference  # noqa: F401  loaded before the fork
from tests.helpers import forked
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT


class SignalAt(Hook):
    """Sends its own process a signal after iteration `when`, from 1, of train, val or test."""

    priority = 'HIGHEST'

    def __init__(self, where: str, when: int, number: int) -> None:
        self.where, self.when, self.number = where, when, number

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'):
        if (mode, batch_idx + 1) == (self.where, self.when):
            os.kill(os.getpid(), self.number)


def plan_signal(arguments: list) -> None:
    """Let each run of this process receive a signal, see `SignalAt`."""
    original = runner.Runner.__init__

    def begin(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.register_hook(SignalAt(*arguments))

    runner.Runner.__init__ = begin


def run_rank(job: dict, rank: int, port: int) -> int:
    """Be one rank of a job; returns its exit status."""
    numbers = [rank, job['processes'], rank]
    if job.get('launcher') == 'slurm':
        names = ['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID']
        os.environ.update(MASTER_PORT=str(port), **job['environment'])
    else:
        names = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK']
        os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    os.environ.update({name: str(number) for name, number in zip(names, numbers)})
    if str(rank) in job.get('signals', {}):
        plan_signal(job['signals'][str(rank)])
    argv = [*job['argv'], '--launcher', job.get('launcher', 'pytorch')]
    return run_command(job['command'], argv)


def run_job(job: dict) -> dict:
    """Run a job.

    Args:
        job: `command` and its `argv` without a launcher, `processes`; `launcher` and, for slurm,
            `environment`; `signals` by rank, see `SignalAt`.

    Returns:
        Exit `statuses`, minus the signal if one ended it, and `outputs`, each by rank, and the
        `seconds` from the first exit to the last.
    """
    with socket.create_server(('', 0)) as free, tempfile.TemporaryDirectory() as folder:
        port = free.getsockname()[1]
        free.close()
        logs = [Path(folder, str(rank)) for rank in range(job['processes'])]
        processes = [
            forked.start(log, partial(run_rank, job, rank, port)) for rank, log in enumerate(logs)
        ]
        ends = {}
        while len(ends) < len(processes):
            process, status = os.wait()
            ends[process] = os.waitstatus_to_exitcode(status), time.monotonic()
        times = [ends[process][1] for process in processes]
        return {
            'statuses': [ends[process][0] for process in processes],
            'outputs': [log.read_text() for log in logs],
            'seconds': max(times) - min(times),
        }


if __name__ == '__main__':
    os.environ.setdefault('MKL_CBWR', 'AUTO')
    for name in ('retinanet', 'semfpn'):
        import_plugins(load_config(str(ROOT / f'configs/{name}_effvim_m1.py')))
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # other output is no result
    for line in sys.stdin:
        answers.write(json.dumps(run_job(json.loads(line))) + '\n')
        answers.flush()
