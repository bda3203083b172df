"""One run at a time in a working directory."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import is_main_process

from backbone.errors import UserError
from effvim import console

NAME = 'run.lock'  # stays: in a directory that holds one, a run has begun


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder`, and remove the half-written files of a killed one.

    Of several ranks the first holds the lock. It is a record lock (`fcntl.lockf`): the kernel
    releases it when this process ends, however it ends, and loader workers, which may outlive the
    process by seconds, do not inherit it. The package filelock locks with `flock`, which forked
    workers do inherit, and it empties the file, which says who holds the lock. Windows has no
    record locks, nor do some file systems: there a line says that the directory is not locked.

    Raises:
        UserError: another run writes there.
    """
    if not is_main_process():
        yield
        return
    try:
        import fcntl
    except ImportError:
        console.note(f'{folder} is not locked on this system: start no second run there')
        (folder / NAME).touch()
        yield
        return
    with (folder / NAME).open('a+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                raise UserError(
                    f'{folder} is in use by another run ({file.read().strip()}): wait for '
                    f'it, stop it, or choose another --work-dir'
                ) from error
            # a file system without locks, e.g. Lustre without flock
            console.note(f'{folder} cannot be locked ({error.strerror}): start no second run there')
        else:
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
            file.flush()
            for half in folder.glob('.*.pth.*'):
                half.unlink()
        yield
