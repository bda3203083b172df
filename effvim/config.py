"""Configs: read, changed by flags, made ready for a Runner. Nothing here imports mmdet."""

from __future__ import annotations

import contextlib
import difflib
import gc
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from backbone.errors import UserError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')
# Variables of configs that were copied to their places when the file was read: too late to change.
COPIED = ('train_pipeline', 'test_pipeline', 'data_root', 'dataset_type', 'backend_args')
PARTS = ('model', 'optim_wrapper', 'train_cfg', 'default_hooks', *LOADERS, *EVALUATORS)
# What a loader and its data set need, beside what their own classes check.
LOADER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'batch_size': (lambda value: value is None or (type(value) is int and value > 0),
                   'a whole number from 1'),
    'num_workers': (lambda value: type(value) is int and value >= 0, 'a whole number from 0'),
    'dataset.data_root': (lambda value: isinstance(value, str | None), 'the name of a folder'),
    'dataset.ann_file': (lambda value: isinstance(value, str | None), 'the name of a file'),
    'dataset.data_prefix': (lambda value: isinstance(value, dict), 'names of folders by key'),
    'dataset.pipeline': (lambda value: isinstance(value, list), 'a list of transforms'),
}


def load_config(path: str) -> Config:
    """The config in a file; its `custom_imports` are not imported yet.

    Raises:
        UserError: absent, not Python that runs, or without a model and data.
    """
    if not Path(path).is_file():
        raise UserError(f'config {path} not found: give a file, or the name of a packaged one such '
                        f'as retinanet_effvim_m4')
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:  # a config is code: it may raise anything
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    missing = [key for key in ('model', *LOADERS) if key not in cfg]
    if missing:
        raise UserError(f'{path} is not a config of a detector or segmentor: it has no '
                        f'{" and no ".join(missing)}')
    check_parts(cfg, path)
    for module in cfg.get('custom_imports', {}).get('imports', []):
        if not importlib.util.find_spec(module.partition('.')[0]):
            raise UserError(f'{path}: custom_imports: no module named {module!r}; install the '
                            f'project with "pip install -e ." or set PYTHONPATH')
    return cfg


def check_parts(cfg: Config, where: str) -> None:
    """What every tool reads of a config has the type that it needs.

    Raises:
        UserError: it has not; names `where` the value is from.
    """
    for key in (*PARTS, 'model.backbone', *(f'{loader}.dataset' for loader in LOADERS)):
        if not isinstance(_at(cfg, key), dict):
            raise UserError(f'{where}: {key} must keep its keys, it cannot be one value')
    if not isinstance(_at(cfg, 'model.neck'), dict | None):
        raise UserError(f'{where}: model.neck must keep its keys, it cannot be one value')
    for loader in LOADERS:
        for key, (fits, meant) in LOADER_FIELDS.items():
            value = _at(cfg, f'{loader}.{key}')
            if not fits(value):
                raise UserError(f'{where}: {loader}.{key} must be {meant}, got {value!r}')
    load_from = cfg.get('load_from')
    if load_from is not None and not isinstance(load_from, str):
        raise UserError(f'{where}: load_from must be the name of a file, got {load_from!r}')


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings as mmengine reads them; a leading + stays on its key.

    Raises:
        UserError: a pair without =.
    """
    import argparse

    for pair in pairs:
        if '=' not in pair or pair.startswith('='):
            raise UserError(f'--cfg-options takes KEY=VALUE, got {pair!r}')
    parser = argparse.ArgumentParser(prefix_chars=chr(0))
    parser.add_argument('options', nargs='*', action=DictAction)
    try:
        return dict(parser.parse_args(list(pairs)).options or {})
    except (AssertionError, ValueError, SyntaxError) as error:
        raise UserError(f'--cfg-options {" ".join(pairs)}: {error}') from error


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Change keys of `cfg` in place.

    Raises:
        UserError: a key that the config does not have (the message names the nearest) unless it is
            marked with +, or one that leads through something that has no keys.
    """
    known = {k for k in dotted_keys(cfg._cfg_dict) if k.split('.')[0] not in COPIED}
    changes = {}
    for key, value in options.items():
        if not key.startswith('+') and key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise UserError(f'--cfg-options: the config has no {key!r}; the nearest is '
                            f'{near[0]!r}. To add a new key write +{key}=…')
        changes[key.removeprefix('+')] = value
    try:
        cfg.merge_from_dict(changes)
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {error}') from error
    check_parts(cfg, '--cfg-options')
    point_metrics(cfg, set(changes))


def _at(cfg: Config, key: str) -> Any:
    node: Any = cfg
    for part in key.split('.'):
        node = node.get(part)
    return node


def point_metrics(cfg: Config, keep: Container[str] = ()) -> None:
    """Let metrics that read annotations read those of their loader's data set.

    `keep`: keys that were set by hand.
    """
    for evaluator, loader in zip(EVALUATORS, LOADERS[1:]):
        if cfg[evaluator].get('ann_file') and f'{evaluator}.ann_file' not in keep:
            dataset = cfg[loader].dataset
            folder = Path(dataset.get('data_root') or '')
            cfg[evaluator].ann_file = str(folder / (dataset.get('ann_file') or ''))


def dotted_keys(node: Any, prefix: str = '') -> Iterator[str]:
    """Every key below `node` as `--cfg-options` writes it, e.g. train_pipeline.2.scale."""
    if isinstance(node, dict):
        items: Any = node.items()
    elif isinstance(node, list):
        items = [(i, value) for i, value in enumerate(node) if isinstance(value, (dict, list))]
    else:
        return
    for key, value in items:
        yield f'{prefix}{key}'
        yield from dotted_keys(value, f'{prefix}{key}.')


def steps(pipeline: Sequence[Any], key: str = '') -> Iterator[tuple[str, Any]]:
    """Every transform of a pipeline and its key below `key`, those inside others included.

    Transforms that choose among others, and hooks that change the pipeline, hold such.
    """
    for i, step in enumerate(pipeline):
        if isinstance(step, list):
            yield from steps(step, f'{key}.{i}')
            continue
        yield f'{key}.{i}', step
        for inner in ('transforms', 'switch_pipeline'):
            yield from steps(step.get(inner) or (), f'{key}.{i}.{inner}')


def every_step(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Every transform of every pipeline, and its key."""
    for loader in LOADERS:
        yield from steps(cfg[loader].dataset.pipeline, f'{loader}.dataset.pipeline')
    for key in ('tta_pipeline', 'custom_hooks'):
        yield from steps(cfg.get(key) or (), key)


def is_segmentor(cfg: Config) -> bool:
    """Whether the config is of mmseg, on data like ADE20K; else it is of mmdet, on COCO's like."""
    return cfg.get('default_scope') == 'mmseg'


def datasets(cfg: Config) -> list[Any]:
    """The data set configs of the training, validation and test loaders."""
    return [cfg[loader].dataset for loader in LOADERS]


def set_data_root(cfg: Config, root: str | os.PathLike[str]) -> None:
    """Point the data sets, and the metrics that read their annotations, to `root`."""
    root = str(root).rstrip('/') + '/'
    for dataset in datasets(cfg):
        dataset.data_root = root
    if 'data_root' in cfg:
        cfg.data_root = root
    point_metrics(cfg)


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Give data sets these class names, and the model as many classes."""
    for dataset in datasets(cfg):
        dataset.metainfo = dict(dataset.get('metainfo') or {}, classes=tuple(classes))
    for part in counting_classes(cfg.model):
        part['num_classes'] = len(classes)


def counting_classes(node: Any) -> Iterator[dict[str, Any]]:
    """Every part of a model's config that says how many classes there are."""
    if isinstance(node, dict) and 'num_classes' in node:
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            yield from counting_classes(value)


def fit_machine(cfg: Config) -> None:
    """No more loader workers than cores, and processes that talk over what there is."""
    import torch

    if not torch.cuda.is_available():
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        cfg.setdefault('model_wrapper_cfg', dict(
            type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    for loader in LOADERS:
        cfg[loader].num_workers = min(cfg[loader].num_workers, cores or 1)
        if not cfg[loader].num_workers:
            cfg[loader].persistent_workers = False


def result_folder(cfg: Config, path: str, given: str | None, overlays: Sequence[str]) -> Path:
    """The folder for results: the flag's, the config's, or one named after the config."""
    name = '-'.join([Path(path).stem, *(o for o in overlays if o == 'mini')])
    return Path(given or cfg.get('work_dir') or Path('work_dirs') / name)


def writable(folder: Path, flag: str) -> Path:
    """`folder`, made and tried.

    Raises:
        UserError: it cannot be made or written to; names the flag that chooses another.
    """
    probe = folder / f'.writable-{os.getpid()}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f'folder {folder} cannot be written: {error.strerror}; choose another '
                        f'with {flag}') from error
    return folder


@contextlib.contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Nothing is printed, nor logged up to `level`, e.g. of optional parts as mmdet is imported."""
    logging.disable(level)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Python's search for cycles rests: it would walk millions of annotations again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def import_plugins(cfg: Config) -> None:
    """Import what the config names in `custom_imports`, and the models of mmdet or mmseg: seconds.

    Raises:
        UserError: a module is not there.
    """
    models = 'mmseg.models' if is_segmentor(cfg) else 'mmdet.models'
    for module in (*cfg.get('custom_imports', {}).get('imports', []), models):
        try:
            with quiet():
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f'custom_imports: {error}; install the project with '
                            f'"pip install -e ." or set PYTHONPATH') from error


def check_model(cfg: Config) -> None:
    """Arguments of the model that can be checked against each other without building it.

    Raises:
        UserError: unknown arch, out_indices out of range, a neck that does not fit the backbone.
    """
    import inspect

    from backbone import EfficientViM, feature_info

    backbone, neck = cfg.model.backbone, cfg.model.get('neck')
    if backbone.get('type') != 'EfficientViM':
        return
    known = {*inspect.signature(EfficientViM).parameters, 'type', 'init_cfg'} - {'in_channels'}
    if backbone.keys() - known:
        raise UserError(f'model.backbone has no argument {sorted(backbone.keys() - known)[0]!r}; '
                        f'it has {", ".join(sorted(known))}')
    info = feature_info(backbone.get('arch', 'm4'), backbone.get('out_indices', (0, 1, 2)))
    channels = [i.channels for i in info]
    wanted = neck.get('in_channels', channels) if neck else channels
    if not isinstance(wanted, (list, tuple)) or list(wanted) != channels:
        raise UserError(f'model.neck.in_channels is {wanted}, but the backbone '
                        f'arch={backbone.get("arch", "m4")!r} gives maps of {channels} channels '
                        f'at strides {[i.stride for i in info]}: set model.neck.in_channels')
