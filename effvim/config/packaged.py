"""TODO effvim.config.packaged."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).with_name('configs')  # part of the package


def config_path(name: str) -> str:
    """The file of a config, which may be given by the name of one of `CONFIGS`."""
    packaged = CONFIGS / f'{name.removesuffix(".py")}.py'
    return str(packaged) if not Path(name).exists() and packaged.is_file() else name
