"""Checkpoints that know what they are: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import random
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer

from backbone import weights
from backbone.errors import UserError

# The maintained continuation first, then the names of the originals.
PACKAGES = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'timm': ('timm',),
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmsegmentation': ('onedl-mmsegmentation', 'mmsegmentation'),
}


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside, sync, rename: at any moment `path` is the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class WholeFileBackend(LocalBackend):
    """mmengine's local files, with `put` that never leaves half a file."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write `obj` to `filepath`, see `write_whole`."""
        write_whole(filepath, obj)


register_backend('whole_file', WholeFileBackend, force=True)


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, e.g. mmdet: onedl-mmdetection 3.5.1."""
    found = {'python': platform.python_version()}
    for package, names in PACKAGES.items():
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                found.setdefault(package, f'{name} {version(name)}')
    return found


def random_states() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, of plain numbers and tensors only."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set what `random_states` returned."""
    random.setstate(states['python'])
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'])
    if states['cuda'] and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states['cuda'])


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint or weight file holds; no code in it is run.

    Raises:
        UserError: absent, empty, damaged, refused, or not what a checkpoint looks like.
    """
    from mmengine.runner.checkpoint import get_torch_safe_globals

    allowed = [item for item in get_torch_safe_globals() if item is not getattr]
    content = weights.read(path, [*allowed, (_history_method, 'builtins.getattr')])
    if not isinstance(content, Mapping):
        raise UserError(f'{path} is not a checkpoint: it holds a {type(content).__name__}')
    for part in ('state_dict', 'meta'):
        if not isinstance(content.get(part, {}), Mapping):
            raise UserError(f'{path} is not a checkpoint: its {part} is a '
                            f'{type(content[part]).__name__}')
    return dict(content)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's content, at least a `state_dict` and a `meta`; no code in it is run.

    Raises:
        UserError: as `read_file`, or it is without model weights.
    """
    content = read_file(path)
    if 'state_dict' not in content:
        content = {'state_dict': weights.state_dict_of(content, path)}
    content.setdefault('meta', {})
    return content


def check_resumable(content: Mapping[str, Any], path: Path) -> None:
    """See that a checkpoint holds the state of a training run, not weights alone.

    Raises:
        UserError: it does not.
    """
    if 'optimizer' not in content or not {'epoch', 'iter'} <= content['meta'].keys():
        raise UserError(f'--resume: {path} holds weights but no state of a training run: start '
                        f'from them with --cfg-options load_from={path}')


def _history_method(owner: Any, name: str) -> Any:
    """What stands for `getattr` in a checkpoint: mmengine's log buffers pickle their methods so.

    The real one would let a file reach into any module.
    """
    if owner is not HistoryBuffer and type(owner) is not HistoryBuffer:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL getattr of something else')
    return getattr(owner, name)


def find_latest(folder: Path) -> Path:
    """The checkpoint that a run in `folder` wrote last.

    Raises:
        UserError: there is none.
    """
    pointer = folder / 'last_checkpoint'
    named = Path(pointer.read_text().strip()).name if pointer.is_file() else ''
    if named and (folder / named).is_file():
        return folder / named
    others = sorted(folder.glob('*_[0-9]*.pth'), key=lambda path: path.stat().st_mtime)
    if others:  # the pointer itself was lost
        return others[-1]
    raise UserError(f'--resume: there is no checkpoint in {folder} to go on from; start without '
                    f'--resume, or name a checkpoint: --resume FILE')


def describe(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What our own training wrote about the run, or an empty dict for other checkpoints."""
    about = (checkpoint.get('meta') or {}).get('effvim')
    return dict(about) if isinstance(about, Mapping) else {}


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names that the checkpoint was trained for; empty if it does not say."""
    meta = checkpoint.get('meta') or {}
    meta = meta.get('dataset_meta') or meta  # mmdet 2 and mmseg 0 knew no dataset_meta
    return tuple(meta.get('classes') or meta.get('CLASSES') or ())
