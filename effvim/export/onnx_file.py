"""The content of an exported ONNX file."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
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
from effvim.config.run_spec import RunSpec
from effvim.console import quiet
from effvim.export.graph import EXPORTABLE, Backbone
from effvim.export.metadata import metadata
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
