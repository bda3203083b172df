"""The configs that come with this package, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from backbone.errors import UserError
from effvim.resources import CONFIGS

# What `CONFIG` or the first argument of a command may be besides a config.
MODEL_SUFFIXES = ('.pth', '.pt', '.safetensors', '.onnx', '.xml')


def config_path(name: str) -> str:
    """The file of a config, which may be given by the name of a packaged one.

    A file of that name in the current directory comes first.
    """
    packaged = CONFIGS / f'{name.removesuffix(".py")}.py'
    return str(packaged) if not Path(name).exists() and packaged.is_file() else name


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


def is_model_file(name: str) -> bool:
    """Whether a name is an existing checkpoint or exported file, judged by its suffix."""
    return Path(name).suffix.lower() in MODEL_SUFFIXES and Path(name).is_file()
