"""What a run that has run out of memory ends with: one line, and the last checkpoint."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.engine.accumulation import as_text, next_smaller, smaller_batch
from effvim.engine.memory import available_memory, peak_memory

# In errors of torch's allocators on CPU and GPU, of its GPU libraries, and of its data loader.
MESSAGE = re.compile(
    'out of memory|can.t allocate memory|not enough memory|cannot allocate memory|'
    r'_ALLOC_FAILED|DataLoader worker .* killed by signal: Killed',
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted, of the GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(MESSAGE.search(str(error)))


@contextlib.contextmanager
def explained(runner: Any) -> Iterator[None]:
    """Turn an error of memory in the training of `runner` into one line that says what to do.

    Raises:
        UserError: memory is exhausted.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_explanation(runner, error)) from error


def _explanation(runner: Any, error: Exception) -> str:
    cfg = runner.cfg
    validates = runner.message_hub.get_info('loop_stage') == 'val'
    batch_size = cfg['val_dataloader' if validates else 'train_dataloader'].get('batch_size') or 1
    done = runner.iter
    where = f'the validation after iteration {done}' if validates else f'iteration {done + 1}'
    rank = f'rank {os.environ.get("RANK", runner.rank)}: ' if runner.world_size > 1 else ''
    cause = next(iter(str(error).strip().splitlines()), '') or type(error).__name__
    text = (
        f'{rank}out of memory in {where}, with a batch of {batch_size} images: '
        f'{peak_memory():,} MiB were used at most, {available_memory() // 2**20:,} MiB are free '
        f'now ({cause[:120].rstrip(". ")}); '
    )
    newest = next(iter(ckpt.newest_first(Path(runner.work_dir))), None)
    smaller = next_smaller(batch_size)
    if validates:
        kept = f'the last checkpoint {newest} is kept; ' if newest else ''
        resume = '--resume ' if newest else ''
        options = f'pass {resume}--cfg-options val_dataloader.batch_size={smaller}, or '
        return f'{text}{kept}{options if smaller else ""}validate on smaller images'
    options = as_text(smaller_batch(cfg, smaller)) if smaller else ''
    if newest is None:
        text += 'no checkpoint was saved yet: '
        if options:
            return f'{text}pass --auto-batch, or --cfg-options {options}'
        return f'{text}{WITHOUT_SMALLER}'
    text += f'the last checkpoint {newest} is kept: continue with --resume where more is free'
    if not options:
        return f'{text}, or {WITHOUT_SMALLER}'
    if newest.name.startswith('epoch_'):  # an epoch can have other batches than the one before
        return f'{text}, or with --resume --cfg-options {options}'
    return f'{text}, or start a new run with --cfg-options load_from={newest} {options}'


WITHOUT_SMALLER = (
    'use smaller images, mixed precision (--amp) or gradient checkpointing '
    '(--cfg-options model.backbone.with_cp=True)'
)
