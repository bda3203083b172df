"""Distributed training and evaluation: start each rank, and end it when another rank has failed.

Launchers end a job whose rank fails: torchrun's agent, or `srun --kill-on-bad-exit=1`. What a
surviving rank learns comes from torch: gloo reports a closed connection, and an exchange that takes
longer than the time-out fails. Here that becomes one line and exit status 2. docs/distributed.md
lists what each launcher guarantees.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from backbone.errors import UserError

# What torchrun sets and torch reads, and where Slurm has the same.
TORCH = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')

SLURM = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}

TIMEOUT = 1800  # seconds; gloo's default, for NCCL too, whose 600 a long evaluation can exceed

HEAD_START = 3  # seconds; the launcher must see the failed rank end first, to name it as the cause

# In the errors of gloo, NCCL and the TCP store.
TIMED_OUT = re.compile(r'timed? ?out', re.IGNORECASE)

CLOSED = re.compile(
    'connection (was )?(closed|reset|refused)|broken pipe|remote process exit', re.IGNORECASE
)


def read_environment(launcher: str) -> None:
    """Check that `launcher` has started this process; set what torch reads, as torchrun does.

    That holds for Slurm too: mmengine's own Slurm start needs a GPU, uses the same port for all
    jobs on a node, and waits for a host of that name when `scontrol` answers with an error.

    Raises:
        UserError: another launcher has started it, or none.
    """
    environment = os.environ
    if launcher == 'none':
        if 'TORCHELASTIC_RUN_ID' in environment and environment.get('WORLD_SIZE', '1') != '1':
            raise UserError(
                f'torchrun has started {environment["WORLD_SIZE"]} processes, each of which '
                f'would do all of the work: add --launcher pytorch'
            )
        return
    slurm = launcher == 'slurm'
    missing = [name for name in (SLURM.values() if slurm else TORCH) if name not in environment]
    if missing:
        start = 'srun python' if slurm else 'torchrun --nproc-per-node=N'
        raise UserError(
            f'--launcher {launcher}: {missing[0]} is not set; start the tool by '
            f'"{start} -m effvim … --launcher {launcher}", see docs/distributed.md'
        )
    if slurm:
        environment.update({name: environment[theirs] for name, theirs in SLURM.items()})
        if 'MASTER_ADDR' not in environment:
            environment['MASTER_ADDR'] = first_node()
        # jobs that share a node get different ones
        port = 20000 + int(environment.get('SLURM_JOB_ID', 0)) % 10000
        environment.setdefault('MASTER_PORT', str(port))


def launched(launcher: str) -> tuple[int, int]:
    """Rank and number of the processes that `launcher` has started; see `read_environment`."""
    if launcher == 'none':
        return 0, 1
    return int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])


def first_node() -> str:
    """The host of Slurm's first process.

    Raises:
        UserError: Slurm does not say.
    """
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST', '')
    try:
        listed = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True
        )
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f'--launcher slurm: scontrol does not say which is the first of the nodes '
            f'{nodes!r}: set MASTER_ADDR to its name'
        ) from error


def timeout_of(dist_cfg: Mapping[str, Any]) -> datetime.timedelta:
    """How long an exchange between ranks may take, from a config's `env_cfg.dist_cfg`."""
    return datetime.timedelta(seconds=dist_cfg.get('timeout') or TIMEOUT)


@contextlib.contextmanager
def joined(launcher: str, **dist_cfg: Any) -> Iterator[None]:
    """Be one of the ranks that `launcher` has started; call `read_environment` before.

    Args:
        launcher: 'none', 'pytorch' or 'slurm'.
        dist_cfg: `backend` and `timeout` (seconds; default: 1800) for mmengine's `init_dist`.

    Raises:
        UserError: an exchange failed because another rank has ended or does not answer.
    """
    if launcher == 'none':
        yield
        return
    import torch
    from mmengine import dist

    timeout = timeout_of(dist_cfg)
    try:
        if torch.cuda.is_available():
            dist.init_dist('pytorch', **{**dist_cfg, 'timeout': timeout.total_seconds()})
        else:  # mmengine's init_dist asks for a GPU
            torch.distributed.init_process_group('gloo', timeout=timeout)
        yield
    except RuntimeError as error:
        cause = lost_rank(error, timeout)
        if not cause:
            raise
        time.sleep(HEAD_START)
        raise UserError(f'rank {os.environ["RANK"]}: {cause}') from error
    torch.distributed.destroy_process_group()


def lost_rank(error: RuntimeError, timeout: datetime.timedelta) -> str:
    """What happened to another rank if `error` is torch's of an exchange with it; else empty."""
    import torch

    message = str(error)
    if not isinstance(error, torch.distributed.DistError) and 'gloo' not in message:
        return ''
    if TIMED_OUT.search(message):
        return (
            f'another rank has not answered for {timeout.total_seconds():g} s '
            f'(env_cfg.dist_cfg.timeout): it hangs or was never started'
        )
    if CLOSED.search(message):
        return (
            'another rank has ended: its own message or that of the launcher says which and why; '
            'training continues from its last checkpoint with --resume'
        )
    return ''
