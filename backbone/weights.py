"""Load weight files and hub ids into the network, without executing anything in them.

Known formats: the authors' ImageNet pickles (`model` and `model_ema` next to optimiser state and a
config object), timm's safetensors, checkpoints of mmdet, mmseg and mmengine, and the output of
tools/convert_weights.py, safetensors whose metadata say what they are.
"""

from __future__ import annotations

import ast
import functools
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from .errors import UserError
from .hub import resolve
from .names import CLASSIFIER, difference, translate

STEM = 'patch_embed.conv.0.conv.weight'  # the only tensor that depends on the input channels

METADATA = 'effvim'  # the key in a safetensors file's metadata; a Python literal, see `read`


class LogBuffer(OrderedDict):
    """What mmengine's log buffers in a checkpoint become where mmengine is not needed: a dict."""


def _method_of(buffer: type, owner: Any, name: str) -> Any:
    """Replace `getattr` in a pickle, by which mmengine's log buffers store their methods.

    The real one would let a file reach into any module.
    """
    if owner is not buffer and type(owner) is not buffer:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL getattr of something else')
    return getattr(owner, name, None)


_NUMPY = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]  # a number, an array

# What checkpoints and published pickles hold next to their tensors. Containers are read as dicts:
# no code of theirs is imported or run, 'argparse.Namespace' included, in which the authors stored
# their settings. NumPy's functions also have their names from before NumPy 2. Every other class in
# a file is refused by name.
_INERT: list[Any] = [
    (OrderedDict, 'yacs.config.CfgNode'),
    (OrderedDict, 'argparse.Namespace'),
    slice,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in '?bhilqBHILQefd'},
    *_NUMPY,
    *((function, f'numpy.core.multiarray.{function.__name__}') for function in _NUMPY),
]


class LoadReport(NamedTuple):
    """What `load_backbone` did: how many tensors it set, and which ones of the file it ignored.

    `adapted`: the network's number of input channels if the file's is another.
    """

    loaded: int
    ignored: list[str]
    adapted: int | None = None

    def __str__(self) -> str:
        text = f'loaded {self.loaded} tensors'
        if self.ignored:
            head = sum(bool(CLASSIFIER.match(name)) for name in self.ignored)
            rest = len(self.ignored) - head
            text += f', ignored {head} of the classifier'
            text += f' and {rest} of stages that are not used' if rest else ''
        if self.adapted:
            text += f', adapted the first convolution from RGB to {self.adapted} channels'
        return text


def read(path: str | os.PathLike[str], buffer: type = LogBuffer) -> Any:
    """Read a safetensors or `torch.save` file to the CPU, without executing anything in it.

    A safetensors file whose metadata say what it is comes as `state_dict` and `meta`, like a
    checkpoint.

    Args:
        path: the file.
        buffer: the class of mmengine's log buffers; resuming needs mmengine's own.

    Raises:
        UserError: the file is absent, empty, damaged, or asks for something to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path} not found, or not a file')
    if path.stat().st_size == 0:
        raise UserError(f'{path} is empty (0 bytes): download or write it again')
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path)
        allowed = [
            *_INERT,
            (buffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
            (functools.partial(_method_of, buffer), 'builtins.getattr'),
        ]
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r'(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)', str(error))
        if culprit:
            raise UserError(
                f'{path} refused: it asks for {culprit[1]}, which reading weights must not execute'
            ) from error
        raise UserError(f'{path} is damaged or not a weight file: use another copy') from error
    except Exception as error:  # the readers raise what they like over truncated and foreign bytes
        raise UserError(
            f'{path} is truncated, damaged or not a weight file '
            f'({type(error).__name__}): use another copy'
        ) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, 'pt') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        about = (file.metadata() or {}).get(METADATA)
    return {'state_dict': tensors, 'meta': ast.literal_eval(about)} if about else tensors


def weights_key(content: Any, path: str | os.PathLike[str], ema: bool | None = None) -> str | None:
    """Return the key of the weights in a file's content; None if it is the tensors themselves.

    Args:
        content: what `read` returned.
        path: the file, for messages.
        ema: True for averaged weights (EMA), False for raw ones, None for the file's main ones. In
            the authors' ImageNet files these are the raw `model`, from which their published
            detectors and segmentors start (`model_ema` has the published top-1); in our
            checkpoints those that are evaluated, averaged if the run averaged.

    Raises:
        UserError: averaged weights are requested and there are none.
    """
    keys = content if isinstance(content, Mapping) else {}
    main = next((key for key in ('state_dict', 'model') if key in keys), None)
    raw, averaged = main, 'model_ema'
    if 'ema_state_dict' in keys:  # where mmengine's hook puts the raw ones
        raw, averaged = 'ema_state_dict', 'state_dict'
    if ema and averaged not in keys:
        raise UserError(
            f'{path} holds no averaged weights (EMA): use its weights as they are, '
            f'without --ema or ema=True'
        )
    return main if ema is None else averaged if ema else raw


def state_dict_of(
    content: Any, path: str | os.PathLike[str], prefix: str = '', ema: bool | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a file's content by name, those below `prefix` with it stripped.

    Args:
        content: what `read` returned.
        path: the file, for messages.
        prefix: use the tensors below this name, e.g. `backbone` in a detector's file.
        ema: see `weights_key`.

    Raises:
        UserError: there are no tensors, none below `prefix`, or no averaged ones.
    """
    key = weights_key(content, path, ema)
    entry = content if key is None else content[key]
    tensors = {}
    if isinstance(entry, Mapping):
        tensors = {
            str(k).removeprefix('module.'): v for k, v in entry.items() if isinstance(v, Tensor)
        }
    if key == 'ema_state_dict':
        tensors.pop('steps', None)  # the hook's counter
    if not tensors:
        raise UserError(f'{path} holds no tensors by name')
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        names = sorted({name.split('.')[0] for name in tensors})
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not tensors:
            raise UserError(
                f'{path}: no tensor is called {prefix}…; names in it begin with {", ".join(names)}'
            )
    return tensors


def published(path: Path, prefix: str = '', ema: bool | None = None) -> dict[str, Tensor]:
    """Return a file's tensors under our names; arguments and errors as `state_dict_of`."""
    return translate(state_dict_of(read(path), path, prefix, ema)).tensors


def load_backbone(
    network: nn.Module,
    source: str | os.PathLike[str],
    prefix: str = '',
    ema: bool | None = None,
) -> LoadReport:
    """Set every tensor of `network` from a file or hub id; nothing stays randomly initialised.

    If the file is for RGB images and the network is not, the first convolution is adapted as timm
    does it: the kernels of the three channels are summed for one, otherwise repeated and scaled.

    Args:
        network: an `EfficientViM` or an `EfficientViMClassifier`.
        source: a file in one of the formats above, or a hub id.
        prefix: see `state_dict_of`.
        ema: see `weights_key`.

    Raises:
        UserError: a tensor is missing or has another shape, or the file holds tensors that belong
            neither to the network nor to a classifier. The network is not changed then.
    """
    path = resolve(source)
    own = network.state_dict()
    original = published(path, prefix, ema)
    tensors = adapt_channels(own, original)
    adapted = own[STEM].shape[1] if tensors is not original else None
    chosen = fit(own, tensors, path)
    network.load_state_dict(chosen)
    ignored = sorted(tensors.keys() - chosen.keys())
    return LoadReport(len(chosen), ignored, adapted)


def adapt_channels(own: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the first convolution of weights for RGB to a network of other channels.

    Returns:
        `tensors` themselves if nothing has to be adapted.
    """
    if STEM not in own or STEM not in tensors or tensors[STEM].shape[1] != 3:
        return tensors
    channels = own[STEM].shape[1]
    if channels == 3:
        return tensors
    return {**tensors, STEM: adapt_input_conv(channels, tensors[STEM])}


def fit(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """Select from `tensors` those that a backbone or classifier with the state dict `own` needs.

    Raises:
        UserError: as `load_backbone`; names the variant that the tensors belong to.
    """
    missing = [name for name in own if name not in tensors]
    if missing and all(CLASSIFIER.match(name) for name in missing):
        kind = 'distillation heads' if 'weights' in tensors else 'classification heads'
        raise UserError(
            f'{path} has no {kind}, the first missing tensor is {missing[0]}: it fits a network '
            f'without them'
        )
    if missing:
        below = any(name.startswith('backbone.') for name in tensors)
        raise UserError(
            f'{path} lacks {len(missing)} of {len(own)} tensors of the network, the '
            f'first {missing[0]}: it holds {difference(tensors, own)}'
            + (", or needs prefix='backbone'" if below else '')
        )
    for name, value in own.items():
        theirs, ours = tensors[name].shape, value.shape
        if name == STEM and theirs[0] == ours[0] and theirs[1] != ours[1]:
            raise UserError(
                f'{path} is for images of {theirs[1]} channels, the network has '
                f'in_channels={ours[1]}'
            )
        if name.startswith('heads') and theirs[1:] == ours[1:] and theirs != ours:
            raise UserError(
                f'{path} is for {theirs[0]} classes, the network has num_classes={ours[0]}: build '
                f'it with num_classes={theirs[0]}, load, then call reset_classifier({ours[0]})'
            )
        if theirs != ours:
            raise UserError(
                f'{path}: {name} has shape {tuple(theirs)}, the network needs {tuple(ours)}: the '
                f'weights are of '
                f'{difference(tensors, own)}'
            )
    # stages that are not built, and the downsampling that would lead to them
    stages = sorted({int(name.split('.')[1]) for name in own if name.startswith('stages.')})
    unused = re.compile(rf'stages\.({stages[-1]}\.downsample|(?!({"|".join(map(str, stages))})\.))')
    unknown = [
        name
        for name in tensors
        if name not in own and not CLASSIFIER.match(name) and not unused.match(name)
    ]
    if unknown:
        raise UserError(
            f'{path} has {len(unknown)} tensors that are not part of the network, '
            f'the first {unknown[0]}'
        )
    return {name: tensors[name] for name in own}
