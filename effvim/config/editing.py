"""Changes of a config: keys, the dataset's root, the classes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Container, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config, DictAction

from backbone.errors import UserError
from effvim.config.structure import (
    EVALUATORS,
    LOADERS,
    dataset_configs,
    dotted_keys,
    parts_with_classes,
)
from effvim.config.validation import check_parts

# Variables of configs that were copied to their places when the file was read: too late to change.
COPIED = (
    'train_pipeline',
    'plain_pipeline',
    'test_pipeline',
    'data_root',
    'dataset_type',
    'backend_args',
    'vis_backends',
    'max_epochs',
    'crop',
    'pad',
)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `KEY=VALUE` strings as mmengine does; a leading + stays on its key.

    Raises:
        UserError: a pair without =, or a value that cannot be parsed.
    """
    for pair in pairs:
        if '=' not in pair or pair.startswith('='):
            raise UserError(f'--cfg-options takes KEY=VALUE, got {pair!r}')
    parsed = SimpleNamespace(options={})
    try:
        # mmengine has this parser only as an action of a command line
        DictAction([], dest='options')(None, parsed, list(pairs))  # type: ignore[arg-type]
    except (AssertionError, ValueError, SyntaxError) as error:
        raise UserError(f'--cfg-options {" ".join(pairs)}: {error}') from error
    except RecursionError:  # its answer to some dicts; of others it makes words
        parsed.options = {'': 'dict('}
    if any(_has_dict(value) for value in parsed.options.values()):
        raise UserError(
            f'--cfg-options {" ".join(pairs)}: values are numbers, words, and lists and tuples of '
            f'them, not dicts: give each key of the dict, or write a config file'
        )
    return dict(parsed.options)


def _has_dict(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_dict, value))
    return isinstance(value, str) and value.startswith(('dict(', '{'))


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
            raise UserError(
                f'--cfg-options: the config has no {key!r}; the nearest is '
                f'{near[0]!r}. To add a new key write +{key}=…'
            )
        changes[key.removeprefix('+')] = value
    try:
        cfg.merge_from_dict(changes)
    except (KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {error}') from error
    check_parts(cfg, '--cfg-options')
    sync_metric_annotations(cfg, set(changes))


def sync_metric_annotations(cfg: Config, keep: Container[str] = ()) -> None:
    """Point metrics that read annotations to those of their loader's dataset.

    Args:
        cfg: changed in place.
        keep: keys that the user has set and that stay.
    """
    for evaluator, loader in zip(EVALUATORS, LOADERS[1:]):
        if cfg[evaluator].get('ann_file') and f'{evaluator}.ann_file' not in keep:
            dataset = cfg[loader].dataset
            folder = Path(dataset.get('data_root') or '')
            cfg[evaluator].ann_file = str(folder / (dataset.get('ann_file') or ''))


def set_data_root(cfg: Config, root: str | os.PathLike[str]) -> None:
    """Point the datasets, and the metrics that read their annotations, to `root`."""
    root = str(root).rstrip('/') + '/'
    for dataset in dataset_configs(cfg):
        dataset.data_root = root
    if 'data_root' in cfg:
        cfg.data_root = root
    sync_metric_annotations(cfg)


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Set the class names of all datasets and the number of classes of the model."""
    for dataset in dataset_configs(cfg):
        dataset.metainfo = dict(dataset.get('metainfo') or {}, classes=tuple(classes))
    for part in parts_with_classes(cfg.model):
        part['num_classes'] = len(classes)
