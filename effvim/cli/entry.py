"""Where programs start: the installation is checked before anything of it is imported."""

from __future__ import annotations

import os
import select
import sys

from effvim.installation import check_installation

CLOSED = 141  # the exit status that shells report of a program that a closed pipe has ended


def script() -> int:
    """Run the console command `effvim`; returns the exit status."""
    return _run(None, 'effvim')


def tool(command: str, file: str) -> int:
    """Run a command as a script of tools/; returns the exit status.

    Args:
        command: the command's name.
        file: the script's, for help and messages.
    """
    return _run(command, f'tools/{file.replace(chr(92), "/").rpartition("/")[2]}')


def _run(command: str | None, prog: str) -> int:
    problem = check_installation()
    if problem:
        print('error:', problem, file=sys.stderr)
        return 2
    from effvim.cli import main

    try:
        try:
            status = main.run(sys.argv[1:], command, prog)
        except SystemExit as end:  # of --help
            if not isinstance(end.code, int):
                raise
            status = end.code
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        if not output_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed once more at exit
        return CLOSED
    return status


def output_closed() -> bool:
    """Whether the reader of stdout has ended, as `| head` does; unknown on Windows."""
    if not sys.stdout or not hasattr(select, 'poll'):
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
