"""Where programs start: the installation is checked before anything of it is imported."""

from __future__ import annotations

import os
import sys

from effvim.installation import check_installation


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
            return main.run(sys.argv[1:], command, prog)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has ended, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed once more at exit
        return 141  # as shells report a program that a closed pipe has ended
