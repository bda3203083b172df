"""An ONNX file and what it says about itself."""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.onnx.errors import OnnxExporterError

from backbone.errors import UserError
from effvim.checkpoints import exported
from effvim.checkpoints.exported import preparation
from effvim.checkpoints.versions import versions
from effvim.console import quiet
from effvim.export.graph import WHOLE, Backbone
from effvim.export.operators import translations
from effvim.inference.folding import fuse
from effvim.inference.preprocessing import Prepare

OPSET = 18

LARGEST = 2**31  # bytes that ONNX can hold in one file


def require() -> None:
    """See that what writes and runs ONNX files is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ModuleNotFoundError as error:
        raise UserError(f'an export needs {error.name}: {exported.INSTALL}') from error


def metadata(
    cfg: Config, about: Mapping[str, Any], kind: str, size: Sequence[int] | None, normalised: bool
) -> dict[str, Any]:
    """What a file says about itself; each value is written as JSON.

    effvim: what the checkpoint said of its run, see `session.describe`; options as Python writes
    them, since JSON has no tuples. kind: the class of `export_model`. size: height and width, null
    for any. input: raw or normalised. settings: see `exported.settings`, the thresholds among them.
    """
    run = {key: value for key, value in about.items() if key != 'classes'}
    run['options'] = {key: repr(value) for key, value in about['options'].items()}
    return {
        'effvim': run,
        'classes': about['classes'],
        'kind': kind,
        'size': list(size) if size else None,
        'input': 'normalised' if normalised else 'raw',
        'settings': exported.settings(cfg),
        'versions': versions(),
    }


def unsupported(cfg: Config, error: BaseException) -> UserError:
    """The error of a model with a head that an export was not written for."""
    heads = [
        cfg.model[name].type
        for name in ('bbox_head', 'roi_head', 'decode_head')
        if name in cfg.model
    ]
    said = str(error).strip().partition('\n')[0]
    return UserError(
        f'{cfg.model.type} with {", ".join(heads)} cannot be exported '
        f'({type(error).__name__}: {said}), only with the heads of configs/; of any '
        f'other model the backbone, with --backbone-only'
    )


def write(
    model: nn.Module,
    cfg: Config,
    about: Mapping[str, Any],
    kind: str,
    size: Sequence[int] | None,
    normalised: bool,
) -> bytes:
    """The content of an ONNX file of `model`, which is folded in place.

    The arguments as of `metadata`. A file for any size takes any number of pictures, too, each of
    at least 32 × 32 pixels.

    Raises:
        UserError: PyTorch's exporter does not take the model.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    prepare = nn.Identity() if normalised else Prepare(**preparation(cfg.model.data_preprocessor))
    network = (Backbone if kind == 'Backbone' else WHOLE[kind])(fuse(model), prepare).eval()
    # the example must not be special: neither one picture nor two equal sides
    example = torch.zeros(
        (1, 3, *size) if size else (2, 3, 128, 160),
        dtype=torch.float32 if normalised else torch.uint8,
    )
    try:
        with torch.no_grad(), warnings.catch_warnings(), quiet(logging.ERROR):
            warnings.simplefilter('ignore')
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=['images'],
                output_names=list(network.names),
                opset_version=OPSET,
                dynamic_shapes=None if size else ({0: 'batch', 2: 'height', 3: 'width'},),
                custom_translation_table=translations(),
                verbose=False,
            )
    except OnnxExporterError as error:  # tells pages; its cause is what the model did
        raise unsupported(cfg, error.__cause__ or error) from error
    # weights as they are multiplied, not as they are stored
    fold_constants(program.model, input_size_limit=LARGEST, output_size_limit=LARGEST)
    for node in program.model.graph:
        scopes = ast.literal_eval(node.metadata_props.get('pkg.torch.onnx.name_scopes', '[]'))
        layers = [scope for scope in scopes if scope.startswith('model.')]
        node.name = '/'.join([*layers[-1:], node.name])
    # which lines of code a node comes from, and where they lie on this machine
    ClearMetadataAndDocStringPass()(program.model)
    RemoveUnusedNodesPass()(program.model)
    said = metadata(cfg, about, kind, size, normalised)
    program.model.metadata_props.update(
        {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}
    )
    return program.model_proto.SerializeToString()
