"""Before training: does the largest step fit into memory, and which batch size does?"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from typing import Any

import torch
from mmengine import dist

from backbone.errors import UserError
from effvim import console
from effvim.config.input_size import largest_input
from effvim.config.prepare import PreparedRun
from effvim.engine import memory, step_memory
from effvim.engine.accumulation import as_text, smaller_batch, smaller_batches
from effvim.engine.distributed import HEAD_START
from effvim.engine.out_of_memory import WITHOUT_SMALLER

# Twice what the published training of RetinaNet-M4 takes: 17,879 MiB for 16 images of 1344 × 800.
# Other models may need up to four times as much before a run that does not fit is not measured.
BYTES_PER_PIXEL = 2 * 17_879 * 2**20 / (16 * 800 * 1344)

FIXED = 2**30  # bytes that training takes for any batch: libraries, weights, annotations

OBVIOUS = 0.5  # share of the free memory up to which an estimate needs no measurement

USED = 0.9  # share of the free memory that a batch is chosen for; images and allocators differ


@dataclasses.dataclass
class _Decision:
    """What rank 0 has found: at most one of an error, a warning, and options with a text."""

    error: str = ''
    warning: str = ''
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ''


def ensure_fits(prepared: PreparedRun, auto_batch: bool = False) -> None:
    """Check that the largest training step fits into the memory that is free.

    Nothing is measured where a cheap estimate is far below that. Call it on every rank: the first
    one decides for all.

    Args:
        prepared: a run that has not begun. With `auto_batch` its config and spec are changed.
        auto_batch: choose a smaller batch with the same total where the config's does not fit. A
            resumed run keeps its batch.

    Raises:
        UserError: it does not fit; on other ranks than the first SystemExit, which prints nothing.
    """
    decided = [_decide(prepared, auto_batch) if dist.get_rank() == 0 else _Decision()]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(decided)
    decision = decided[0]
    first = dist.get_rank() == 0
    if decision.error:
        if first:
            raise UserError(decision.error)
        time.sleep(HEAD_START)  # the launcher must see the first rank end first
        raise SystemExit(2)
    if decision.warning and first:
        console.warn(decision.warning)
    if decision.options:
        prepared.spec.batch = {k.removeprefix('+'): v for k, v in decision.options.items()}
        prepared.cfg.merge_from_dict(prepared.spec.batch)
        if first:
            console.say(decision.text)


def estimate(prepared: PreparedRun) -> float:
    """Bytes that the largest step of one rank takes, generously; infinite where nothing says."""
    size = largest_input(prepared.cfg)
    batch_size = prepared.cfg.train_dataloader.get('batch_size') or 1
    return FIXED + batch_size * size.pixels * BYTES_PER_PIXEL if size else math.inf


def ranks_in_memory() -> int:
    """How many ranks share the memory: those of this machine, unless each has its own GPU."""
    if torch.cuda.is_available() or dist.get_world_size() == 1:
        return 1
    here = os.environ.get('LOCAL_WORLD_SIZE') or os.environ.get('SLURM_TASKS_PER_NODE') or ''
    number = re.match(r'\d+', here)  # Slurm writes 2(x3),1
    return int(number.group()) if number else dist.get_world_size()


def _decide(prepared: PreparedRun, auto_batch: bool) -> _Decision:
    cfg, ranks = prepared.cfg, ranks_in_memory()
    free = memory.available_memory() // ranks
    if estimate(prepared) <= OBVIOUS * free:
        return _Decision()
    console.say('measuring the memory of a training step, since it may not fit')
    try:
        measured = step_memory.measure(cfg, prepared.spec, free)
    except (step_memory.MeasuringFailed, OSError) as error:  # e.g. without room for its files
        return _Decision(warning=f'the memory of a training step could not be measured: {error}')
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    if measured.needed(batch_size, _copies(cfg)) * 2**20 <= free:
        return _Decision()
    return _too_large(prepared, measured, batch_size, free, auto_batch)


def _too_large(
    prepared: PreparedRun,
    measured: step_memory.StepMemory,
    batch_size: int,
    free: int,
    auto_batch: bool,
) -> _Decision:
    cfg, ranks = prepared.cfg, ranks_in_memory()
    needed = measured.needed(batch_size, _copies(cfg))
    amount = f'more than {_mebibytes(free)}' if math.isinf(needed) else f'about {needed:,.0f} MiB'
    images = f'{batch_size} image{"s" * (batch_size > 1)}'
    where = 'of GPU memory' if torch.cuda.is_available() else 'of memory'
    share = f' for each of {ranks} processes' if ranks > 1 else ''
    text = f'a training step on {images} needs {amount} {where}, {_mebibytes(free)} are free{share}'
    if cfg.get('resume'):
        return _Decision(
            warning=f'{text}: the run may end for lack of memory; a resumed run keeps its batch'
        )
    copies = _copies(cfg, accumulates=True)
    fitting = [
        size
        for size in smaller_batches(batch_size)
        if size >= measured.smallest and measured.needed(size, copies) * 2**20 <= USED * free
    ]
    if not fitting:
        least = measured.needed(measured.smallest, copies)
        return _Decision(
            error=f'{text}, and no smaller batch fits'
            + (f' (the smallest takes {least:,.0f} MiB)' if math.isfinite(least) else '')
            + f': {WITHOUT_SMALLER}'
        )
    options = smaller_batch(cfg, fitting[0])
    counts = cfg.optim_wrapper.get('accumulative_counts') or 1
    total = f'{batch_size * counts * dist.get_world_size()} images a step'
    if auto_batch:
        return _Decision(
            options=options,
            text=f'{text}: --auto-batch trains with {as_text(options)}, {total} as before',
        )
    return _Decision(
        error=f'{text}: pass --auto-batch, or --cfg-options {as_text(options)}, which takes '
        f'{measured.needed(fitting[0], copies):,.0f} MiB and keeps {total}'
    )


def _copies(cfg: Any, accumulates: bool = False) -> int:
    """How many copies of the gradients there are while another batch is computed."""
    accumulates = accumulates or (cfg.optim_wrapper.get('accumulative_counts') or 1) > 1
    return accumulates + (dist.get_world_size() > 1)


def _mebibytes(number: float) -> str:
    return f'{number / 2**20:,.0f} MiB'
