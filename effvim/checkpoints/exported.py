"""What an exported file says of itself, read as if it were a checkpoint.

Importing this needs no torch.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defusedxml import DefusedXmlException, ElementTree

from backbone.errors import UserError
from effvim.checkpoints.kinds import runtime_of, weights_of
from effvim.files import sha256_of

if TYPE_CHECKING:
    from mmengine.config import Config

INSTALL = 'install the extra export, pip install ".[export]"'


def description(path: str) -> dict[str, Any]:
    """The metadata of an exported file, see `export.metadata`.

    Raises:
        UserError: the file is absent or damaged, another program wrote it, or its weights are not
            those next to it.
    """
    runtime = runtime_of(path)
    if runtime == 'onnxruntime':
        metadata = onnx_metadata(path)
    elif runtime == 'openvino':
        metadata = xml_metadata(path)
    else:
        metadata = json_metadata(path)
    if 'effvim' not in metadata:
        raise UserError(
            f'{path} was not written by effvim export: its metadata does not say what it is'
        )
    about = dict(_own(metadata))
    if runtime != 'onnxruntime':
        weights = weights_of(path)
        if about.get('weights') != hash_of_weights(path):
            both = 'both' if runtime in ('openvino', 'litert', 'executorch') else 'all'
            what = f'{weights} does not hold the weights of {path}'
            if str(weights) == path:
                what = f'{path} is not the file that {path}.json describes'
            raise UserError(f'{what}: copy {both} files of one export')
    _check_entries(about, path)
    return about


def _check_entries(about: Mapping[str, Any], path: str) -> None:
    """Check the entries that reading the file relies on.

    Raises:
        UserError: one is absent or of another form, e.g. since somebody has changed it.
    """
    run, settings = about.get('effvim'), about.get('settings')
    forms = {
        'effvim': _is_run(run),
        'kind': isinstance(about.get('kind'), str),
        'classes': about.get('classes', 0) is None or _is_list_of(str, about.get('classes')),
        'size': about.get('size', 0) is None or _is_pair(about.get('size')),
        'input': about.get('input') in ('raw', 'normalised', 'rgb'),
        'settings': isinstance(settings, dict)
        and isinstance(settings.get('model.type'), str)
        and isinstance(settings.get('model.data_preprocessor'), dict),
        'segments': isinstance(about.get('segments', False), bool),
        # files of version 0.1, which have no `segments`, are read with their config
        'resize': 'segments' not in about or is_resize(about.get('resize')),
    }
    for key, known in forms.items():
        if not known:
            raise UserError(
                f'{path}: its metadata has no {key} that this version can read: export again'
            )


def _is_run(run: Any) -> bool:
    """Whether a value is `effvim` of `export.metadata.metadata`, as far as it is read here."""
    if not isinstance(run, dict) or not isinstance(run.get('config'), str):
        return False
    try:
        _with_python_values(run)
    except (AttributeError, SyntaxError, TypeError, ValueError):
        return False
    return True


def _with_python_values(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its options as they were before they were written as JSON, which has no tuples."""
    as_python = ['options', 'fitted'] if run.get('format', 1) >= 2 else ['options']
    return {**run, **{key: _evaluated(run.get(key) or {}) for key in as_python}}


def _evaluated(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: ast.literal_eval(value) if isinstance(value, str) else value
        for name, value in options.items()
    }


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def is_resize(rules: Any) -> bool:
    """Whether rules have the form of `export.metadata.resize_rules`."""
    if rules is None:
        return True
    if not isinstance(rules, dict) or rules.keys() != {'scale', 'keep_ratio', 'multiple', 'pad'}:
        return False
    return (
        (rules['scale'] is None or _is_pair(rules['scale']))
        and isinstance(rules['keep_ratio'], bool)
        and (rules['multiple'] is None or _is_size(rules['multiple']))
        and (rules['pad'] is None or _is_pad(rules['pad']))
    )


def _is_pad(pad: Any) -> bool:
    if not isinstance(pad, dict) or pad.keys() != {'size', 'value'}:
        return False
    return _is_pair(pad['size']) and type(pad['value']) is int and 0 <= pad['value'] < 256


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0  # nor a bool, which is an int, too


def _own(metadata: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The entries of this project: other tools, e.g. onnxruntime's quantisation, add others."""
    for key, value in metadata.items():
        with contextlib.suppress(ValueError):
            yield key, json.loads(value)


def hash_of_weights(path: str) -> str:
    """SHA-256 of the weights that belong to an exported file.

    Raises:
        UserError: they are not there.
    """
    weights = weights_of(path)
    try:
        return sha256_of(weights)
    except FileNotFoundError as error:
        raise UserError(
            f'{path} needs its weights, {weights.name}, next to it: copy both files'
        ) from error
    except OSError as error:
        raise UserError(f'{weights} cannot be read: {error.strerror}') from error


def onnx_metadata(path: str) -> dict[str, str]:
    """The metadata of an ONNX file.

    Raises:
        UserError: onnx is not installed, or it is no ONNX file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise UserError(f'ONNX files need the package onnx: {INSTALL}') from error
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise UserError(f'{path} cannot be read as an ONNX file: {error}') from error
    return {item.key: item.value for item in model.metadata_props}


def xml_metadata(path: str) -> dict[str, str]:
    """The metadata of a file of OpenVINO, which it keeps from the ONNX file it was made from.

    Raises:
        UserError: it is not such a file.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, DefusedXmlException) as error:
        raise UserError(f'{path} cannot be read as a file of OpenVINO: {error}') from error
    return {item.tag: item.get('value', '') for item in root.iterfind('rt_info/framework/*')}


def json_metadata(path: str) -> dict[str, str]:
    """The metadata of a file whose format has no place for it, from *.json next to it.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        values = json.loads(Path(f'{path}.json').read_text('utf-8'))
    except FileNotFoundError as error:
        if not Path(path).is_file():
            raise UserError(f'{path} not found: pass the path of an existing file') from error
        raise UserError(
            f'{path} needs its metadata, {Path(path).name}.json, next to it: copy it, too'
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f'{path}.json cannot be read: {error}') from error
    if not isinstance(values, dict):
        raise UserError(f'{path}.json was not written by effvim export')
    return {key: json.dumps(value) for key, value in values.items()}


def content(path: str) -> dict[str, Any]:
    """The metadata of an exported file in the form of a checkpoint's content.

    Returns:
        `state_dict` (empty) and `meta` as of a checkpoint, and `export`: see `description`.

    Raises:
        UserError: as `description`, or it holds only a backbone.
    """
    metadata = description(path)
    if metadata['kind'] == 'Backbone':
        raise UserError(
            f'{path} holds only a backbone, which predicts nothing: export without --backbone-only'
        )
    run = _with_python_values({**metadata['effvim'], 'classes': metadata['classes']})
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
    head = model.get('bbox_head', {})
    if head.get('type', '').startswith('RTMDetIns'):  # what its masks have to be enlarged by
        strides = head.anchor_generator.strides
        fixed['model.bbox_head.anchor_generator.strides'] = strides
    return json.loads(json.dumps(fixed))  # tuples as the file gives them


def detector_setting(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A setting of a detector's last step, which with two stages is in `rcnn`.

    Args:
        settings: see `settings`.
        name: e.g. 'score_thr'.
        default: if there is none.
    """
    for key in (f'model.test_cfg.rcnn.{name}', f'model.test_cfg.{name}'):
        if key in settings:
            return settings[key]
    return default


def nms_iou(settings: Mapping[str, Any]) -> float | None:
    """The IoU above which NMS drops the lower-scoring box; None without NMS, or with soft NMS."""
    hard = detector_setting(settings, 'nms.type') == 'nms'
    return detector_setting(settings, 'nms.iou_threshold') if hard else None


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
