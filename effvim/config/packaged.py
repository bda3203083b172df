"""The configs that come with this package, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.fetching import fetch_for
from effvim.resources import CONFIGS


def config_path(name: str) -> str:
    """The file of a config, which may be given by the name of a packaged one.

    A file of that name in the current directory comes first.
    """
    packaged = CONFIGS / f'{name.removesuffix(".py")}.py'
    return str(packaged) if not Path(name).is_file() and packaged.is_file() else name


def is_packaged(name: str) -> bool:
    """Whether a name, without `.py`, is that of a packaged config and of nothing in this directory.

    A directory of that name may hold a run of one's own, whose weights are meant.
    """
    path = Path(name)
    if name.endswith('.py') or path.is_absolute() or path.exists():
        return False
    return config_path(name) != name


def published_or_given(
    checkpoint: str | os.PathLike[str], config: str | None
) -> tuple[str, str | None]:
    """Checkpoint and config of a call: as given, or the published weights of a packaged config.

    Args:
        checkpoint: a checkpoint; without `config` also the name of a packaged config.
        config: path or name of a config.

    Raises:
        UserError: none were published for that config, or they cannot be had.
    """
    name = str(checkpoint)
    if config is None and is_packaged(name):
        return str(fetch_for(name)), name
    return name, config


def check_config_exists(path: str) -> None:
    """Raise if there is no such config.

    Raises:
        UserError: there is not.
    """
    if not Path(path).is_file():
        names = [
            file.relative_to(CONFIGS).with_suffix('').as_posix()
            for file in CONFIGS.rglob('*_effvim_*.py')
        ]
        near = difflib.get_close_matches(path.removesuffix('.py'), names, n=1, cutoff=0.4)
        raise UserError(
            f'config {path} not found: pass a path or the name of a packaged config, e.g. '
            f'{near[0] if near else "retinanet_effvim_m4"}'
        )
