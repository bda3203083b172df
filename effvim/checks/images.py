"""Every picture of a data set, decoded in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pycocotools import mask as rle
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from backbone.errors import UserError
from effvim.datasets import ade, coco
from effvim.images import examine_image

CHUNK = 32  # pictures that a worker takes at once


class CocoJob(NamedTuple):
    """A picture, the size that its annotation file says, and the masks on it."""

    path: Path
    size: tuple[float, float]  # width and height
    outlines: list[tuple[int, Any]]  # of well-formed masks: annotation id, segmentation


class AdeJob(NamedTuple):
    """A picture and its label map, see `ade.check_labels`."""

    path: Path
    annotation: Path
    number: int
    reduced: bool


class Result(NamedTuple):
    """What one picture was like."""

    digest: bytes = b''  # of the file; empty if it cannot be decoded
    unreadable: str = ''
    wrong: str = ''  # its size, or its label map
    empty: Sequence[int] = ()  # annotation ids of masks without a pixel
    labels: np.ndarray | None = None  # pixels of each value of the label map


def examine(job: CocoJob | AdeJob) -> Result:
    """Decode one picture, and its masks or label map."""
    try:
        size, digest = examine_image(job.path)
    except Exception as error:  # decoders raise what they like over foreign bytes
        return Result(unreadable=f'{job.path} ({" ".join(str(error).split())})')
    if isinstance(job, AdeJob):
        try:
            labels = ade.check_labels(job.annotation, size, job.number, job.reduced)
        except UserError as error:
            return Result(digest, wrong=str(error))
        return Result(digest, labels=np.bincount(labels.ravel(), minlength=256))
    wrong = ''
    if size != job.size:
        wrong = (
            f'{job.path} is {size[0]} × {size[1]} pixels, stated are {job.size[0]} × {job.size[1]}'
        )
    width, height = map(int, job.size)
    empty = [number for number, outline in job.outlines if not _pixels(outline, height, width)]
    return Result(digest, wrong=wrong, empty=empty)


def _pixels(outline: Any, height: int, width: int) -> int:
    """How many pixels a mask has once it is drawn, as mmdet draws it."""
    return int(rle.area(coco.encode_mask(outline, width, height)))


def examine_all(jobs: Sequence[CocoJob | AdeJob], workers: int, title: str) -> list[Result]:
    """`examine` every job, in order, in `workers` processes; 0 for this one. Shows a bar."""
    if not workers:
        return _collect(map(examine, jobs), len(jobs), title)
    # Forked, a worker starts in no time. It lacks the threads of this process, but uses only one.
    fork = 'fork' if 'fork' in multiprocessing.get_all_start_methods() else None
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context(fork), initializer=_one_thread_in_silence
    )
    try:
        return _collect(pool.map(examine, jobs, chunksize=CHUNK), len(jobs), title)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread_in_silence() -> None:
    """Workers share the cores; what decoders print about broken files is said by the report."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stderr__.fileno())


def _collect(results: Iterable[Result], total: int, title: str) -> list[Result]:
    console = Console(stderr=True)
    columns: list[Any] = [
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        return list(bar.track(results, total, description=title))
