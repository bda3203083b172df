"""What a run with `--data` was asked for, on disk before its first checkpoint."""

from __future__ import annotations

import ast
from pathlib import Path

from backbone.errors import UserError
from effvim.config.run_spec import RunSpec
from effvim.files import write_atomic

NAME = 'run_spec.txt'  # a Python literal, since JSON has no tuples


def write(folder: Path, spec: RunSpec) -> None:
    """Write the spec of a run that begins in its working directory, if it is one with `--data`.

    Raises:
        OSError: the disk is full.
    """
    path = folder / NAME
    if spec.fitted:
        write_atomic(path, f'{spec.to_dict()!r}\n'.encode())
    else:
        path.unlink(missing_ok=True)  # of an earlier run


def read(folder: Path) -> RunSpec | None:
    """The spec of the run in a working directory; None if it was one without `--data`.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return RunSpec.from_dict(ast.literal_eval(path.read_text('utf-8')))
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path} is damaged: start the run anew, without --resume, with its first command'
        ) from error
