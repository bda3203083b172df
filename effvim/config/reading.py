"""Reading a config file, and importing what it names."""

from __future__ import annotations

import importlib.util

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from backbone.errors import UserError
from effvim import start_up
from effvim.config.legacy import rename_old_names
from effvim.config.packaged import check_config_exists
from effvim.config.structure import LOADERS, is_segmentor
from effvim.config.validation import check_parts
from effvim.console import quiet

PLUGINS = ('mmdet_plugin', 'mmseg_plugin')  # which load the models

# For configs that inherit from mmseg::…: of a name that no distribution has, mmengine looks for the
# module. The distribution is not always called mmsegmentation.
MODULE2PACKAGE['mmseg'] = 'mmseg'


def load_config(path: str) -> Config:
    """Read a config; its `custom_imports` are not imported yet.

    Raises:
        UserError: absent, not Python that runs, or without a model and data.
    """
    check_config_exists(path)
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:  # a config is code: it may raise anything
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    missing = [key for key in ('model', *LOADERS) if key not in cfg]
    if missing:
        raise UserError(
            f'{path} is not a config of a detector or segmentor: it has no '
            f'{" and no ".join(missing)}'
        )
    check_parts(cfg, path)
    rename_old_names(cfg._cfg_dict)
    for module in cfg.get('custom_imports', {}).get('imports', []):
        if not importlib.util.find_spec(module.partition('.')[0]):
            raise UserError(
                f'{path}: custom_imports: no module named {module!r}; install the '
                f'project with "pip install ." or set PYTHONPATH'
            )
    return cfg


def import_plugins(cfg: Config, *, models: bool = True) -> None:
    """Import the config's `custom_imports` and the models of mmdet or mmseg; takes seconds.

    Args:
        cfg: the config.
        models: whether a model of theirs is to be built; an exported file needs only their
            datasets, which load without most of the modules.

    Raises:
        UserError: a module is not installed.
    """
    modules = list(cfg.get('custom_imports', {}).get('imports', []))
    if models:
        modules.append('mmseg.models' if is_segmentor(cfg) else 'mmdet.models')
    else:
        from backbone.openmmlab import ops

        with quiet():
            ops.install()  # as the plugins do
        modules = [module for module in modules if module not in PLUGINS]
    for module in modules:
        try:
            with quiet():
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f'custom_imports: {error}; install the project with '
                f'"pip install ." or set PYTHONPATH'
            ) from error
    start_up.collect_as_usual()
