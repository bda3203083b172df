"""Checkpoints: their format and hash, atomic writing, and reading that runs no code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer

from backbone import weights
from backbone.errors import UserError
from effvim import console
from effvim.checkpoints.kinds import is_exported, refuse_engine
from effvim.files import write_atomic

# A checkpoint ends with a hash of all bytes before it, as the comment of the zip file that it is:
# the end record of 22 bytes, whose last two are the comment's length, the mark, 64 digits.
MARK = b'effvim sha256 '

END = b'PK\x05\x06'

CHUNK = 2**20  # bytes


class LoadedCheckpoint(NamedTuple):
    """A checkpoint or exported file that was read: its path, and its content, see `read`."""

    path: str
    content: dict[str, Any]

    @property
    def seed(self) -> int | None:
        """The random seed that it was trained with, None if it does not say."""
        return (self.content.get('meta') or {}).get('seed')

    @property
    def export(self) -> dict[str, Any] | None:
        """What an exported file says of itself, see `checkpoints.exported`; None for others."""
        return self.content.get('export')


class AtomicFileBackend(LocalBackend):
    """mmengine's local files, whose `put` writes checkpoints atomically and with a hash."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write what `torch.save` made, followed by its hash, see `files.write_atomic`."""
        body = memoryview(obj)[:-2]
        tail = (len(MARK) + 64).to_bytes(2, 'little') + MARK
        digest = hashlib.sha256(body)
        digest.update(tail)
        write_atomic(filepath, body, tail, digest.hexdigest().encode())


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that `read_file` reads, atomically and with a hash."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    AtomicFileBackend().put(buffer.getvalue(), path)


def is_hashed(path: str | os.PathLike[str]) -> bool:
    """Whether a file ends with a hash, right or wrong.

    A damaged file may have lost the mark or the end record of the zip file: either is enough.
    """
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 22 - len(MARK) - 64))
        tail = file.read()
    mark, length = tail[22:-64], tail[20:22]
    return mark == MARK or (
        tail.startswith(END) and int.from_bytes(length, 'little') == len(MARK) + 64
    )


def check_hash(path: str | os.PathLike[str]) -> None:
    """Verify the hash of a file that has one.

    Raises:
        UserError: the file is corrupt.
    """
    if not is_hashed(path):
        return
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        left = file.seek(0, os.SEEK_END) - 64
        file.seek(0)
        while left and (chunk := file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if file.read() != digest.hexdigest().encode():
            raise UserError(
                f'{path} is corrupt: its bytes are not those that were written; use another '
                f'checkpoint or a copy'
            )


register_backend('effvim_atomic', AtomicFileBackend, force=True)


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint or weight file; no code in it is run.

    Raises:
        UserError: absent, empty, corrupt, refused, or not shaped like a checkpoint.
    """
    if Path(path).is_file():
        check_hash(path)
    content = weights.read(path, HistoryBuffer)
    if not isinstance(content, Mapping):
        raise UserError(f'{path} is not a checkpoint: it holds a {type(content).__name__}')
    for part in ('state_dict', 'meta'):
        if not isinstance(content.get(part, {}), Mapping):
            raise UserError(
                f'{path} is not a checkpoint: its {part} is a {type(content[part]).__name__}'
            )
    return dict(content)


def load(path: str | os.PathLike[str]) -> LoadedCheckpoint:
    """Read a checkpoint, or what an exported file says of itself.

    Raises:
        UserError: as `read`, or as `exported.content`, or it is an engine of TensorRT.
    """
    path = str(path)
    refuse_engine(path)
    if is_exported(path):
        from effvim.checkpoints import exported

        return LoadedCheckpoint(path, exported.content(path))
    return LoadedCheckpoint(path, read(path))


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


def check_training_state(content: Mapping[str, Any], path: Path) -> None:
    """Check that a checkpoint holds the state of a training run, not only weights.

    Raises:
        UserError: it holds only weights.
    """
    if 'optimizer' not in content or not {'epoch', 'iter'} <= content['meta'].keys():
        raise UserError(
            f'--resume: {path} holds weights but no state of a training run: start a '
            f'new run from them with --cfg-options load_from={path}'
        )


def is_validation_due(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written in training, not in or after the validation that follows."""
    hub = content.get('message_hub') or {}
    return (hub.get('runtime_info') or {}).get('loop_stage') == 'train'


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in `folder` from which a run can be resumed, the newest first."""
    paths = [path for kind in ('epoch', 'iter') for path in folder.glob(f'{kind}_[0-9]*.pth')]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = folder / 'last_checkpoint'
    named = Path(pointer.read_text().strip()).name if pointer.is_file() else ''
    if named and (folder / named).is_file():  # else the pointer itself was lost
        paths = [folder / named, *(path for path in paths if path.name != named)]
    return paths


def find_latest(folder: Path) -> Path:
    """The newest checkpoint of the run in `folder`.

    Raises:
        UserError: there is none.
    """
    paths = newest_first(folder)
    if not paths:
        raise UserError(
            f'--resume: there is no checkpoint in {folder}: start without --resume, or pass a '
            f'checkpoint: --resume FILE'
        )
    return paths[0]


def load_latest(folder: Path) -> LoadedCheckpoint:
    """Read the newest checkpoint in `folder`; if it is corrupt the previous one, with a warning.

    Raises:
        UserError: no checkpoint in `folder` can be read.
    """
    newest = find_latest(folder)
    try:
        return load(newest)
    except UserError as error:
        for path in newest_first(folder)[1:]:
            with contextlib.suppress(UserError):
                loaded = load(path)
                console.warn(f'{error}; resuming from the previous checkpoint, {path}')
                return loaded
        raise


def describe(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What this project's training wrote about the run; empty for checkpoints of other programs."""
    about = (checkpoint.get('meta') or {}).get('effvim')
    return dict(about) if isinstance(about, Mapping) else {}


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names by label that a checkpoint was trained for; empty if it does not say."""
    meta = checkpoint.get('meta') or {}
    meta = meta.get('dataset_meta') or meta  # mmdet 2 and mmseg 0 knew no dataset_meta
    return tuple(meta.get('classes') or meta.get('CLASSES') or ())
