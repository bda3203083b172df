"""Run tools on several processes, forked from this one to save the seconds of importing mmdet.

A line of JSON on stdin is a job, see `do`; a line of JSON on stdout is what became of it.
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

from effvim.cli.main import run_main
from effvim.config.reading import import_plugins, load_config
from effvim.engine import (
    runner,
    testing,  # noqa: F401
    training,  # noqa: F401
)
from effvim.inference import batch_inference  # noqa: F401
from tests.helpers import forked

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {'train': train, 'test': test, 'infer': infer}


class At(Hook):
    """Sends this process a signal after iteration `when`, counted from 1, of train, val or test."""

    priority = 'HIGHEST'

    def __init__(self, where: str, when: int, number: int) -> None:
        self.where, self.when, self.number = where, when, number

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'):
        if (mode, batch_idx + 1) == (self.where, self.when):
            os.kill(os.getpid(), self.number)


def plan(signal_at: list) -> None:
    """Let training and testing meet a signal, see `At`."""
    build = runner.Runner.__init__

    def begin(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.register_hook(At(*signal_at))

    runner.Runner.__init__ = begin


def run(job: dict, rank: int, port: int) -> int:
    """Be one process of a job; returns its exit status."""
    numbers = [rank, job['processes'], rank]
    if job.get('launcher') == 'slurm':
        names = ['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID']
        os.environ.update(MASTER_PORT=str(port), **job['environment'])
    else:
        names = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK']
        os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    os.environ.update({name: str(number) for name, number in zip(names, numbers)})
    if str(rank) in job.get('signals', {}):
        plan(job['signals'][str(rank)])
    return run_main(
        TOOLS[job['tool']].main, [*job['argv'], '--launcher', job.get('launcher', 'pytorch')]
    )


def do(job: dict) -> dict:
    """Run a job.

    job: `tool` and its `argv` without a launcher, `processes`; `launcher` and, for slurm,
        `environment`; `signals` by rank, see `At`.

    Returns exit `statuses`, minus the signal if one ended it, and `outputs`, each by rank, and the
    `seconds` from the first end to the last.
    """
    with socket.create_server(('', 0)) as free, tempfile.TemporaryDirectory() as folder:
        port = free.getsockname()[1]
        free.close()
        logs = [Path(folder, str(rank)) for rank in range(job['processes'])]
        processes = [
            forked.start(log, partial(run, job, rank, port)) for rank, log in enumerate(logs)
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
    os.dup2(2, 1)  # what else is printed is no answer
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), file=answers, flush=True)
