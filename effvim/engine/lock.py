"""One run at a time in a work dir."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import is_main_process

from backbone.errors import UserError

NAME = 'run.lock'  # stays; where it is, a run has begun


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`, and clear away what one left that was killed while writing.

    The kernel lets go of the lock when this process ends, however it does. It is one that loader
    workers, which may outlive the process by seconds, do not inherit. Of several processes of a run
    the first holds it.

    Raises:
        UserError: another run is writing there.
    """
    if not is_main_process():
        yield
        return
    with (folder / NAME).open('a+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise UserError(
                f'{folder} is in use by another run ({file.read().strip()}): wait for '
                f'it, stop it, or choose another --work-dir'
            ) from error
        file.truncate(0)
        print(f'process {os.getpid()} on {socket.gethostname()}', file=file, flush=True)
        for half in folder.glob('.*.pth.*'):
            half.unlink()
        yield
