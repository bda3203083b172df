"""Published weight files, read safely, into our networks.

Two formats of ImageNet weights are known: the authors' pickles (`model` beside optimiser state and
a config object; LayerNorm weights of shape (1, C, 1) or (1, C, 1, 1)) and timm's safetensors.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import UserError

HUB_ID = re.compile(r'(?:hf-hub:)?(timm/efficientvim_m[1-4](?:_dist)?\.[\w.]+)')
CLASSIFIER = re.compile(r'(weights|weights_dist|norm\.\d|heads\.\d|heads_dist\.\d)(\.|$)')

# Plain containers that published pickles hold beside their tensors. They are read as dicts: no
# code of theirs is imported or run. Every other class in a file is refused by name.
_INERT = [
    (OrderedDict, 'yacs.config.CfgNode'),
    (OrderedDict, 'argparse.Namespace'),
]


class LoadReport(NamedTuple):
    """What `load_backbone` did: tensors set, and names in the file that had no place."""

    loaded: int
    wanted: int
    left_over: list[str]

    def __str__(self) -> str:
        text = f'loaded {self.loaded}/{self.wanted} tensors'
        if self.left_over:
            head = sum(bool(CLASSIFIER.match(name)) for name in self.left_over)
            rest = len(self.left_over) - head
            text += f', left over {head} of the classifier'
            text += f' and {rest} of stages that are not used' if rest else ''
        return text


def resolve(source: str | os.PathLike[str]) -> Path:
    """A local file for `source`: a path, or a hub id such as ``timm/efficientvim_m4.e450_in1k``.

    A hub id is looked for in the hub client's cache first and fetched where the network allows.

    Raises:
        UserError: there is no such file, or the hub cannot be reached; says where to put it.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    hub_id = HUB_ID.fullmatch(str(source))
    if not hub_id:
        raise UserError(f'weights {source} not found: give a file, or one of the hub ids '
                        f'timm/efficientvim_m{{1..4}}.e450_in1k')
    return _from_hub(hub_id[1])


def _from_hub(repo: str) -> Path:
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE

    name = 'model.safetensors'
    logging.getLogger('huggingface_hub').setLevel(logging.CRITICAL)  # it announces each retry
    cached = huggingface_hub.try_to_load_from_cache(repo, name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except Exception as error:  # the client raises its own, its HTTP library's and the system's
        raise UserError(
            f'weights {repo} cannot be fetched ({type(error).__name__}) and are not in '
            f'{HF_HUB_CACHE}: with a network run "hf download {repo} {name}", copy the file here, '
            f'then name it with --cfg-options model.backbone.init_cfg.checkpoint=FILE; or start '
            f'from random weights with --from-scratch'
        ) from error


def read(path: str | os.PathLike[str], extra: list[Any] | None = None) -> Any:
    """The content of a safetensors or `torch.save` file, on the CPU, running none of its code.

    Args:
        path: the file.
        extra: further classes that the file may hold, as `torch.serialization.safe_globals` takes.

    Raises:
        UserError: absent, empty, damaged or holding something that would have to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path} not found, or not a file')
    if path.stat().st_size == 0:
        raise UserError(f'{path} is empty (0 bytes): fetch or write it again')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([*_INERT, *(extra or [])]):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r'(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)', str(error))
        if culprit:
            raise UserError(f'{path} refused: it asks for {culprit[1]}, which reading weights '
                            f'must not execute') from error
        raise UserError(f'{path} is damaged or not a weight file: fetch it again') from error
    except (RuntimeError, EOFError, safetensors.SafetensorError, OSError, ValueError, KeyError,
            AttributeError, TypeError, IndexError, AssertionError, UnicodeDecodeError) as error:
        # what the readers raise over truncated and foreign bytes
        raise UserError(f'{path} is truncated, damaged or not a weight file '
                        f'({type(error).__name__}): fetch it again') from error


def state_dict_of(content: Any, prefix: str = '') -> dict[str, Tensor]:
    """The tensors of a file's content, by name, those below `prefix` with it stripped.

    Of the authors' ImageNet files the raw ``model`` is taken, not ``model_ema``: their published
    detectors and segmentors start from it.

    Raises:
        UserError: no tensors, or none below `prefix`.
    """
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k).removeprefix('module.'): v for k, v in content.items()
                   if isinstance(v, Tensor)}
    if not tensors:
        raise UserError('the file holds no tensors by name')
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        names = sorted({name.split('.')[0] for name in tensors})
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not tensors:
            raise UserError(f'no tensor is called {prefix}…; names in it begin with '
                            f'{", ".join(names)}')
    return tensors


def load_backbone(
    network: nn.Module, source: str | os.PathLike[str], prefix: str = ''
) -> LoadReport:
    """Set every tensor of `network` from a file or hub id; nothing stays random.

    Args:
        network: an `EfficientViM`.
        source: the authors' ImageNet file, timm's, or a hub id.
        prefix: take the tensors below this name, e.g. ``backbone`` in a detector's file.

    Raises:
        UserError: a tensor is missing or has another shape, or the file holds tensors that belong
            neither to the network nor to a classifier. The network is unchanged then.
    """
    path = resolve(source)
    try:
        tensors = state_dict_of(read(path), prefix)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f'{path}: {error}') from error
    own = network.state_dict()
    missing = [name for name in own if name not in tensors and not _counter(name)]
    if missing:
        raise UserError(f'{path} lacks {len(missing)} of {len(own)} tensors of the network, the '
                        f'first {missing[0]}: it holds another network'
                        + ('' if prefix else ', or needs a prefix such as prefix=\'backbone\''))
    chosen = {}
    for name, value in own.items():
        given = tensors.pop(name, value)
        # Published LayerNorm weights are stored (1, C, 1) or (1, C, 1, 1).
        if given.ndim > value.ndim and given.numel() == value.numel():
            given = given.reshape(value.shape)
        if given.shape != value.shape:
            raise UserError(f'{path}: {name} has shape {tuple(given.shape)}, the network needs '
                            f'{tuple(value.shape)}: the weights are of another variant')
        chosen[name] = given
    # stages that are not built, and the downsampling that would lead to them
    stages = sorted({int(name.split('.')[1]) for name in own if name.startswith('stages.')})
    unused = re.compile(rf'stages\.({stages[-1]}\.downsample|(?!({"|".join(map(str, stages))})\.))')
    strange = [n for n in tensors if not CLASSIFIER.match(n) and not unused.match(n)]
    if strange:
        raise UserError(f'{path} has {len(strange)} tensors that belong to nothing in the network, '
                        f'the first {strange[0]}')
    network.load_state_dict(chosen)
    return LoadReport(len(chosen), len(own), sorted(tensors))


def _counter(name: str) -> bool:
    """BN's batch counter is absent from some files and has no effect on any output."""
    return name.endswith('num_batches_tracked')
