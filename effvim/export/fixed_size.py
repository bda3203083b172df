"""Files for runtimes that take images of one size; NMS is left to the caller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from backbone.errors import UserError
from effvim.checkpoints.exported import hash_of_weights, preparation
from effvim.console import silent
from effvim.export import coreml_file, executorch_file, litert_file, ncnn_file, tensorrt_file
from effvim.export.decoded_graph import Decoded, DecodedDense, Normalise, network_of
from effvim.export.onnx_file import emit, unsupported
from effvim.inference.small_runtimes import InTurn, Outputs

# What writes the files of each format.
WRITERS: dict[str, Any] = {
    'ncnn': ncnn_file,
    'coreml': coreml_file,
    'litert': litert_file,
    'executorch': executorch_file,
    'tensorrt': tensorrt_file,
}


class InPyTorch(InTurn):
    """A network before its conversion, in the place of a file."""

    def __init__(self, network: Decoded) -> None:
        self.network = network

    @torch.no_grad()
    def start(self, images: np.ndarray) -> Outputs:
        outputs = self.network(torch.from_numpy(images))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: x.numpy() for name, x in zip(self.network.names, outputs)}


def build(
    model: nn.Module,
    cfg: Config,
    kind: str,
    size: Sequence[int],
    normalised: bool,
    runtime: str,
) -> tuple[Decoded, Tensor]:
    """The network of a model and an example of its input, 1 3 H W.

    Args:
        model: the trained model, which is brought into its form in place.
        cfg: its config.
        kind: see `export.metadata`.
        size: height and width of the images.
        normalised: whether they come normalised.
        runtime: that the network is to be fast in.
    """
    settings = preparation(cfg.model.data_preprocessor)
    prepare: nn.Module = nn.Identity() if normalised else Normalise(**settings, size=size)
    channels = cfg.model.backbone.get('in_channels', 3)
    example = torch.zeros(1, channels, *size)
    network = network_of(kind, emit(model, runtime), prepare, example, runtime != 'ncnn')
    for value in (*network.parameters(), *network.buffers()):
        # litert-torch and executorch read channels-last weights as if they were not; `contiguous`
        # would keep the strides of those with one position
        value.data = value.data.clone(memory_format=torch.contiguous_format)
    return network, example


def rules_of(network: Decoded, test_cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """How detections are selected from the outputs of a network; None if it is no detector.

    Returns:
        `priors`: their number on each level, in this order; `nms_pre`: how many pairs of prior and
        class are chosen from each level, None for all; `score_thr`, above which their scores are;
        `one_class`: only the best class of each prior counts; `min_bbox_size`: width and height are
        above it; `iou_threshold` and `max_per_img` of NMS, the latter None for no limit.
    """
    if not isinstance(network, DecodedDense):
        return None
    return {
        'priors': network.priors_by_level,
        'nms_pre': test_cfg.get('nms_pre') if network.coder else None,
        'score_thr': test_cfg.get('score_thr', 0.0),
        'one_class': network.coder is None,
        'min_bbox_size': test_cfg.get('min_bbox_size', -1),
        'iou_threshold': test_cfg['nms']['iou_threshold'],
        'max_per_img': test_cfg.get('max_per_img'),
    }


def extended(about: Mapping[str, Any], network: Decoded, cfg: Config, runtime: str) -> dict:
    """The metadata of an ONNX file with what is special about these files.

    Returns:
        `about`, where `input` may be 'rgb': float32, RGB, 0 to 255; and `outputs`: their names in
        order; `selection`: see `rules_of`.
    """
    packages = {name: f'{name} {version(name)}' for name in WRITERS[runtime].PACKAGES}
    return {
        **about,
        'input': 'rgb' if about['input'] == 'raw' else about['input'],
        'outputs': list(network.names),
        'selection': rules_of(network, cfg.model.get('test_cfg') or {}),
        'versions': {**about['versions'], **packages},
    }


def write(
    network: Decoded,
    example: Tensor,
    path: Path,
    about: Mapping[str, Any],
    cfg: Config,
    runtime: str,
    half_size: bool = False,
) -> None:
    """Write the files of a network, and its metadata where the format has no place for it.

    Args:
        network: the network.
        example: of its input.
        path: the file.
        about: see `extended`.
        cfg: for messages.
        runtime: see `ExportSettings.runtime`.
        half_size: store weights in 16 bits.

    Raises:
        UserError: the converter rejects the graph; says what it says.
    """
    try:
        with silent(), torch.no_grad():
            WRITERS[runtime].write(network, example, path, about, half_size)
    except (UserError, OSError):
        raise
    except Exception as error:  # those of the converters have no type in common
        raise unsupported(cfg, error) from error
    if path.is_file():
        values = {**about, 'weights': hash_of_weights(str(path))}
        Path(f'{path}.json').write_text(json.dumps(values, ensure_ascii=False, indent=1), 'utf-8')
