"""The content of an exported ONNX file and its metadata."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from backbone import EfficientViM
from backbone.convolutional import convolutional, use_mean_norm
from backbone.errors import UserError
from effvim.checkpoints import exported
from effvim.checkpoints.exported import preparation
from effvim.checkpoints.versions import versions
from effvim.config.run_spec import RunSpec
from effvim.config.structure import is_segmentor, kind_of, pair, scope_of
from effvim.console import quiet
from effvim.export.graph import EXPORTABLE, Backbone
from effvim.export.operators import translations
from effvim.inference.folding import fuse
from effvim.inference.preprocessing import PadToMultiple, Prepare

OPSET = 18
MAX_BYTES = 2**31  # of an ONNX file


def require() -> None:
    """Check that the packages that write and run ONNX files are installed.

    Raises:
        UserError: one is not.
    """
    for name in ('onnx', 'onnxruntime', 'onnxscript'):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f'export needs the package {name}: {exported.INSTALL}') from error


def metadata(
    cfg: Config,
    spec: RunSpec,
    kind: str,
    size: Sequence[int] | None,
    normalised: bool,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata of a file; each value is written as JSON.

    Directories of this machine are not remembered: the file is meant for others.

    Args:
        cfg: the config.
        spec: the run that trained the model, with the options of the export.
        kind: model type in the config, or 'Backbone'.
        size: height and width of the images; None for any size.
        normalised: whether the file takes normalised images.
        options: those of the export alone.

    Returns:
        `effvim`: the run, with options as Python writes them, since JSON has no tuples;
        `own_data`: whether its dataset was in another directory than the config says;
        `own_options`: names of the options of the export; `classes`; `kind`; `segments`: whether
        it is a segmentor; `size`; `input`: 'raw' or 'normalised'; `settings`: what of the config
        is fixed in the file, e.g. thresholds; `resize`: see `resize_rules`; `versions` of the
        packages.
    """
    run = spec.to_dict()
    classes = run.pop('classes')
    dropped = {name for name, value in spec.options.items() if has_absolute_path(value)}
    for key in ('options', 'fitted'):
        run[key] = {name: repr(value) for name, value in run[key].items() if name not in dropped}
    own_data = bool(run.pop('data_root')) or any('_dataloader.' in name for name in dropped)
    return {
        'effvim': run,
        'own_data': own_data,
        'own_options': [name for name in options if name not in dropped],
        'classes': classes,
        'kind': kind,
        'segments': is_segmentor(cfg),
        'size': list(size) if size else None,
        'input': 'normalised' if normalised else 'raw',
        'settings': exported.settings(cfg),
        'resize': resize_rules(cfg),
        'versions': versions(),
    }


# What a test pipeline may consist of, in this order, with the arguments that may have any value,
# and the values of others.
KNOWN_STEPS: dict[str, tuple[set[str], dict[str, tuple[Any, ...]]]] = {
    'LoadImageFromFile': (
        {'backend_args', 'ignore_empty', 'imdecode_backend'},  # for files alone
        {'color_type': ('color',), 'to_float32': (False,)},
    ),
    'Resize': (
        {'scale', 'keep_ratio', 'clip_object_border'},
        {'interpolation': ('bilinear',), 'backend': ('cv2',)},
    ),
    'ResizeToMultiple': ({'size_divisor'}, {'interpolation': ('bilinear', None)}),
    'Pad': ({'size', 'pad_val'}, {'padding_mode': ('constant',)}),
}


def resize_rules(cfg: Config) -> dict[str, Any] | None:
    """How the test pipeline brings images to the size that the network was tested at.

    Returns:
        `scale` (width and height that the image is to fit into, or None) and `keep_ratio`;
        `multiple`, to which both sides are then stretched, or None; `pad`, with the `size` (width
        and height) and the `value` that the image is then padded with at the right and the bottom,
        or None. None if the pipeline does something else.
    """
    rules: dict[str, Any] = dict(scale=None, keep_ratio=True, multiple=None, pad=None)
    pipeline = cfg.test_dataloader.dataset.pipeline
    steps = [step for step in pipeline if not kind_of(step).startswith(('LoadAnn', 'Pack'))]
    kinds = [kind_of(step) for step in steps]
    if kinds != [kind for kind in KNOWN_STEPS if kind in kinds]:  # another one, or another order
        return None
    if any(scope_of(step) not in ('', 'mmcv', 'mmdet', 'mmseg') for step in steps):
        return None
    for kind, step in zip(kinds, steps):
        free, known = KNOWN_STEPS[kind]
        for name in step.keys() - {'type', '_scope_', *free}:
            if step[name] not in known.get(name, ()):
                return None
        if kind == 'Resize':
            if not step.get('scale'):
                return None
            rules.update(scale=list(pair(step.scale)), keep_ratio=step.get('keep_ratio', False))
        elif kind == 'ResizeToMultiple':
            rules['multiple'] = step.get('size_divisor', 32)
            if not isinstance(rules['multiple'], int):  # one for each axis
                return None
        elif kind == 'Pad':
            value = step.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, Mapping) else value
            values = set(value) if isinstance(value, (list, tuple)) else {value}
            number = values.pop()
            if not step.get('size') or values or not isinstance(number, int):
                return None
            rules['pad'] = dict(size=list(pair(step.size)), value=number)
    return rules


def has_absolute_path(value: Any) -> bool:
    """Whether an option is, or holds, a path from the root of a file system of any kind."""
    if isinstance(value, Mapping):
        return any(has_absolute_path(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(has_absolute_path(item) for item in value)
    return isinstance(value, str) and (
        PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    )


def unsupported(cfg: Config, error: BaseException) -> UserError:
    """The error for a model with a head that cannot be exported, or a file that cannot run."""
    heads = [
        cfg.model[name].type
        for name in ('bbox_head', 'roi_head', 'decode_head')
        if name in cfg.model
    ]
    if isinstance(error, OnnxExporterError):  # pages of text; its cause is the error of the model
        error = error.__cause__ or error
    reason = str(error).strip().partition('\n')[0]
    return UserError(
        f'{cfg.model.type} with {", ".join(heads)} cannot be exported ({type(error).__name__}: '
        f'{reason}), only with the heads of the packaged configs; add --backbone-only to export '
        f'the backbone of any other model'
    )


def emit(model: nn.Module, runtime: str) -> nn.Module:
    """Fold a model and write it as a runtime computes it fastest, in place; returns it."""
    fuse(model)
    for module in list(model.modules()):
        if isinstance(module, EfficientViM):
            convolutional(module)
    return model if runtime in ('onnxruntime', 'tensorrt') else use_mean_norm(model)


def trace(network: nn.Module, example: Tensor, names: Sequence[str], any_size: bool = False) -> Any:
    """The ONNX program of a function of images, with weights stored as they are multiplied.

    Args:
        network: the function.
        example: images, B 3 H W.
        names: of its outputs.
        any_size: whether it takes any number of images of any size, or such as the example.

    Raises:
        OnnxExporterError: PyTorch cannot trace it.
    """
    from onnxscript.optimizer import fold_constants

    with torch.no_grad(), warnings.catch_warnings(), quiet(logging.ERROR):
        warnings.simplefilter('ignore')
        program: Any = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=['images'],
            output_names=list(names),
            opset_version=OPSET,
            dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},) if any_size else None,
            custom_translation_table=translations(),
            verbose=False,
        )
    fold_constants(program.model, input_size_limit=MAX_BYTES, output_size_limit=MAX_BYTES)
    return program


def write(
    model: nn.Module,
    cfg: Config,
    spec: RunSpec,
    kind: str,
    size: Sequence[int] | None,
    normalised: bool,
    options: Mapping[str, Any],
    runtime: str = 'onnxruntime',
) -> bytes:
    """The content of an ONNX file of a model, which is brought into its form in place.

    A file for any size takes a batch of any number of images of one size, at least 32 × 32 pixels.

    Args:
        model: the trained model.
        cfg: see `metadata`, as the other arguments.
        runtime: what the graph is to be fast in, see `emit`.

    Raises:
        UserError: PyTorch cannot export the model.
    """
    how = preparation(cfg.model.data_preprocessor)
    # an image of a fixed size comes padded; of any other size the network would not take each
    without = nn.Identity() if size else PadToMultiple(how['divisor'])
    prepare = without if normalised else Prepare(**how)
    network = (Backbone if kind == 'Backbone' else EXPORTABLE[kind])(
        emit(model, runtime), prepare
    ).eval()
    # the example must not be special: two images, two different sides
    channels = cfg.model.backbone.get('in_channels', 3)
    example = torch.zeros(
        (1, channels, *size) if size else (2, channels, 128, 160),
        dtype=torch.float32 if normalised else torch.uint8,
    )
    try:
        program = trace(network, example, network.names, any_size=not size)
    except OnnxExporterError as error:
        raise unsupported(cfg, error) from error
    return content_of(program, metadata(cfg, spec, kind, size, normalised, options))


def content_of(program: Any, about: Mapping[str, Any]) -> bytes:
    """The content of the file of a program, whose nodes are named by their layers.

    Args:
        program: see `trace`.
        about: the metadata.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

    for node in program.model.graph:
        scopes = ast.literal_eval(node.metadata_props.get('pkg.torch.onnx.name_scopes', '[]'))
        layers = [scope for scope in scopes if scope.startswith('model.')]
        node.name = '/'.join([*layers[-1:], node.name])
    # which lines of code a node comes from, and where they lie on this machine
    ClearMetadataAndDocStringPass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    program.model.metadata_props.update(
        {key: json.dumps(value, ensure_ascii=False) for key, value in about.items()}
    )
    return program.model_proto.SerializeToString()
