"""Several processes on one job: how they find each other, and how all end if one of them does.

A process that waits for one that has died is told by gloo only that a connection was closed, by
NCCL nothing for minutes, and by neither who it was. Hence each process holds a connection to the
first one, which the kernel closes when it dies, however that happens.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any

from backbone.errors import UserError

TORCH = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')

SLURM = {'RANK': 'SLURM_PROCID', 'WORLD_SIZE': 'SLURM_NTASKS', 'LOCAL_RANK': 'SLURM_LOCALID'}

NOTICE = 3  # seconds from a failed exchange until it is known whose death was the reason

GRACE = 8  # seconds in which a process ends by itself after the death of another


def read_environment(launcher: str) -> None:
    """See that `launcher` has started this process; set what torch reads, as torchrun does.

    Raises:
        UserError: it has not, or torchrun has while `launcher` is none.
    """
    given = os.environ
    if launcher == 'none':
        if 'TORCHELASTIC_RUN_ID' in given and given.get('WORLD_SIZE', '1') != '1':
            raise UserError(
                f'torchrun has started {given["WORLD_SIZE"]} processes, each of which '
                f'would do all of the work: add --launcher pytorch'
            )
        return
    slurm = launcher == 'slurm'
    missing = [name for name in (SLURM.values() if slurm else TORCH) if name not in given]
    if missing:
        how = 'srun python' if slurm else 'torchrun --nproc-per-node=N'
        raise UserError(
            f'--launcher {launcher}: {missing[0]} is not set; start the tool by '
            f'"{how} tools/… --launcher {launcher}", see docs/distributed.md'
        )
    if slurm:
        given.update({ours: given[theirs] for ours, theirs in SLURM.items()})
        if 'MASTER_ADDR' not in given:
            given['MASTER_ADDR'] = first_node()
        # jobs that share a node get different ones
        given.setdefault('MASTER_PORT', str(20000 + int(given.get('SLURM_JOB_ID', 0)) % 10000))


def first_node() -> str:
    """The host of Slurm's first process.

    Raises:
        UserError: Slurm does not say.
    """
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST', '')
    try:
        said = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True
        )
        return said.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f'--launcher slurm: scontrol does not say which is the first of the nodes '
            f'{nodes!r}: set MASTER_ADDR to its name'
        ) from error


@contextlib.contextmanager
def joined(launcher: str, **dist_cfg: Any) -> Iterator[None]:
    """Be one of the processes that `launcher` has started, after `read_environment`.

    dist_cfg: `backend` and `timeout` (seconds) of mmengine's `init_dist`.

    If another one dies or ends with an error, so does this one: one line says which, exit status 2.
    """
    if launcher == 'none':
        yield
        return
    import torch
    from mmengine import dist

    if torch.cuda.is_available():
        dist.init_dist('pytorch', **dist_cfg)
    else:  # mmengine would ask for a GPU
        seconds = dist_cfg.get('timeout')
        torch.distributed.init_process_group(
            'gloo', timeout=datetime.timedelta(seconds=seconds) if seconds else None
        )
    watch = Watch()
    try:
        yield
    except RuntimeError as error:  # torch's, of an exchange with a process that is not there
        watch.explain(error)
        raise
    else:
        torch.distributed.destroy_process_group()
        watch.left_well = True
    finally:
        watch.leave()


class Watch:
    """Ends this process if another one of its group dies.

    The first process hears of it from the connection that breaks, the others from the first. Each
    says goodbye when it leaves; who does not has died. What goes over the connections is text.
    """

    def __init__(self) -> None:
        from mmengine import dist

        self.rank, processes = dist.get_dist_info()
        self.left = self.left_well = False
        self.message = ''
        self.heard = threading.Event()
        me = f'rank {self.rank} (process {os.getpid()} on {socket.gethostname()})'
        server = listening(processes) if self.rank == 0 else None
        offer: list[Any] = [(me, server.getsockname()[1], secrets.token_hex()) if server else None]
        dist.broadcast_object_list(offer)
        first, port, secret = offer[0]
        self.others: dict[socket.socket, str] = {}
        if server:
            server.settimeout(60)
            while len(self.others) < processes - 1:
                line, other = server.accept()[0], ''
                with contextlib.suppress(OSError):  # a stranger's
                    line.settimeout(60)
                    other = receive(line)
                if other.startswith(secret):
                    self.others[line] = other.removeprefix(secret)
            server.close()
        else:
            line = socket.create_connection((os.environ['MASTER_ADDR'], port), timeout=60)
            send(line, secret + me)
            self.others[line] = first
        for line in self.others:
            line.settimeout(None)
            keep_alive(line)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        staying = dict(self.others)
        while staying:
            for line in wait(list(staying)):
                who, word = staying.pop(line), receive(line)  # type: ignore[index, arg-type]
                if word != 'well' and not self.left:
                    self._end(
                        staying,
                        {
                            '': f'{who} died',
                            'failed': f'{who} ended with an error, see what it said',
                        }.get(word, word),
                        word == '',
                    )  # the first process passes it on
                    return

    def _end(self, staying: Iterable[socket.socket], reason: str, at_once: bool) -> None:
        for line in staying:
            send(line, reason)
        # of the processes that are left one says it; if the first is gone, one on each node
        if self.rank == 0 or (
            reason.startswith('rank 0 ') and (self.rank == 1 or os.environ['LOCAL_RANK'] == '0')
        ):
            self.message = (
                f'error: {reason}; the other processes end, too. Training goes on with '
                f'--resume from its last checkpoint'
            )
        if at_once:
            self._say()
        self.heard.set()
        time.sleep(GRACE)
        if not self.left:  # it waits for what will never come
            self._say()
            os._exit(2)

    def _say(self) -> None:
        message, self.message = self.message, ''
        if message:
            print(message, file=sys.stderr, flush=True)

    def explain(self, error: Exception) -> None:
        """End if the end of another process is the reason of `error`, and say so."""
        if self.heard.wait(NOTICE):
            self._say()
            raise SystemExit(2) from error

    def _forget(self) -> None:
        for line in self.others:  # a loader worker outlives its process by seconds
            line.close()

    def leave(self) -> None:
        """Say goodbye."""
        self.left = True
        for line in self.others:
            send(line, 'well' if self.left_well else 'failed')
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def listening(number: int) -> socket.socket:
    """A socket for `number` connections, from any address of this machine."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ('', 0), family=socket.AF_INET6, backlog=number, dualstack_ipv6=True
        )
    return socket.create_server(('', 0), backlog=number)


def send(line: socket.socket, text: str) -> None:
    """Send one line, unless nobody is there any more."""
    with contextlib.suppress(OSError):
        line.sendall(text.encode() + b'\n')


def receive(line: socket.socket) -> str:
    """The next line; empty if the other end is closed."""
    text = b''
    with contextlib.suppress(ConnectionError):
        while not text.endswith(b'\n') and (byte := line.recv(1)):
            text += byte
    return text.decode(errors='replace').strip() if text.endswith(b'\n') else ''


def keep_alive(line: socket.socket) -> None:
    """Let the kernel notice within 40 seconds that the other machine is gone."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 3)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
