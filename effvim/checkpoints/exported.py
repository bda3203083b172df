"""TODO effvim.checkpoints.exported."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config

from backbone.errors import UserError

INSTALL = 'pip install onnx onnxruntime onnxscript'


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
    """What `tools/export.py` wrote about a file: see `export_file.metadata`.

    Raises:
        UserError: it did not write this one.
    """
    found = session.get_modelmeta().custom_metadata_map
    if 'effvim' not in found:
        raise UserError(f'{name} was not written by tools/export.py: it does not say what it is')
    return {key: json.loads(value) for key, value in found.items()}


def content(path: str) -> dict[str, Any]:
    """The description of a file in the form of a checkpoint's content, `export` beside it.

    Raises:
        UserError: as `open_session` and `description`; it holds a backbone alone.
    """
    about = description(open_session(path, path), path)
    if about['kind'] == 'Backbone':
        raise UserError(
            f'{path} holds a backbone alone, which finds nothing: export without --backbone-only'
        )
    run = {**about['effvim'], 'classes': about['classes']}
    run['options'] = {key: ast.literal_eval(value) for key, value in run['options'].items()}
    meta = {'effvim': run, 'dataset_meta': {'classes': about['classes']}}
    return {'state_dict': {}, 'meta': meta, 'export': about}


def settings(cfg: Config) -> dict[str, Any]:
    """What an exported file holds of a config and cannot change any more, by dotted key."""
    model = cfg.model
    found: dict[str, Any] = {
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
                found[f'{prefix}.{key}'] = value

    collect(model.test_cfg, 'model.test_cfg')
    return json.loads(json.dumps(found))  # tuples as the file gives them


def check_config(cfg: Config, about: Mapping[str, Any], path: str) -> None:
    """See that a config says what the file does.

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
    """Arguments of `Prepare` for a model whose config says this of its `data_preprocessor`."""
    return {
        'mean': list(settings.get('mean', [0, 0, 0])),
        'std': list(settings.get('std', [1, 1, 1])),
        'reverse': settings.get('bgr_to_rgb', False) or settings.get('rgb_to_bgr', False),
        'divisor': settings.get('pad_size_divisor', 1),  # mmseg's pads in training only
    }
