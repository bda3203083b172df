"""Commands in processes forked from this one, which saves the seconds of importing mmdet."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def start(log: Path, run: Callable[[], int]) -> int:
    """Start a process that exits with the status that `run` returns; returns its id.

    Its output is appended to `log`.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = run()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
