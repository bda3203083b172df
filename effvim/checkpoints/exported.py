"""What an exported ONNX file says of itself, read as if it were a checkpoint."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config

from backbone.errors import UserError

INSTALL = 'install the extra export, pip install ".[export]"'


def open_session(source: str | bytes, name: str) -> Any:
    """An onnxruntime session of a file or its content, on as many threads as torch has.

    Raises:
        UserError: onnxruntime is not installed, or the file is absent or not what it can run.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise UserError(f'ONNX files need onnxruntime: {INSTALL}') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    try:
        return onnxruntime.InferenceSession(
            source, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # of many types, over foreign bytes
        raise UserError(f'{name} cannot be read as an ONNX file: {error}') from error


def description(session: Any, name: str) -> dict[str, Any]:
    """The metadata of an exported file, see `export.onnx_file.metadata`.

    Raises:
        UserError: the file has none: another program wrote it.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    if 'effvim' not in metadata:
        raise UserError(
            f'{name} was not written by effvim export: its metadata does not say what it is'
        )
    return {key: json.loads(value) for key, value in metadata.items()}


def content(path: str) -> dict[str, Any]:
    """The metadata of an exported file in the form of a checkpoint's content.

    Returns:
        `state_dict` (empty) and `meta` as of a checkpoint, and `export`: see `description`.

    Raises:
        UserError: as `open_session` and `description`, or it holds only a backbone.
    """
    metadata = description(open_session(path, path), path)
    if metadata['kind'] == 'Backbone':
        raise UserError(
            f'{path} holds only a backbone, which predicts nothing: export without --backbone-only'
        )
    run = {**metadata['effvim'], 'classes': metadata['classes']}
    as_python = ['options', 'fitted'] if run.get('format', 1) >= 2 else ['options']
    for key in as_python:  # JSON has no tuples
        run[key] = {
            name: ast.literal_eval(value) if isinstance(value, str) else value
            for name, value in (run.get(key) or {}).items()
        }
    meta = {'effvim': run, 'dataset_meta': {'classes': metadata['classes']}}
    return {'state_dict': {}, 'meta': meta, 'export': metadata}


def own_options(about: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of a run, those that the export changed; before version 0.3 all of them."""
    names = about.get('own_options', options)
    return {name: options[name] for name in names}


def settings(cfg: Config) -> dict[str, Any]:
    """What of a config is fixed in an exported file, by dotted key."""
    model = cfg.model
    fixed: dict[str, Any] = {
        'model.type': model.type,
        'model.backbone.type': model.backbone.type,
        'model.backbone.arch': model.backbone.get('arch', 'm4'),
        'model.data_preprocessor': preparation(model.data_preprocessor),
    }

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                collect(value, f'{prefix}.{key}')
            else:
                fixed[f'{prefix}.{key}'] = value

    collect(model.test_cfg, 'model.test_cfg')
    return json.loads(json.dumps(fixed))  # tuples as the file gives them


def check_config(cfg: Config, about: Mapping[str, Any], path: str) -> None:
    """Check that a config agrees with what is fixed in an exported file.

    Args:
        cfg: the config.
        about: the file's `description`.
        path: the file's, for messages.

    Raises:
        UserError: it does not; names the first key that differs.
    """
    own = settings(cfg)
    for key in {**about['settings'], **own}:
        if own.get(key) != about['settings'].get(key):
            raise UserError(
                f'the config says {key}={own.get(key)!r}, {path} was exported with '
                f'{about["settings"].get(key)!r}: use the config that it was made '
                f'from, or export again'
            )


def preparation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a `data_preprocessor` of a config changes images: arguments of `Prepare`."""
    return {
        'mean': list(settings.get('mean', [0, 0, 0])),
        'std': list(settings.get('std', [1, 1, 1])),
        'reverse': settings.get('bgr_to_rgb', False) or settings.get('rgb_to_bgr', False),
        'divisor': settings.get('pad_size_divisor', 1),  # mmseg's pads in training only
    }
