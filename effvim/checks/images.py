"""Decodes every image of a dataset in worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pycocotools import mask as rle

from backbone.errors import UserError
from effvim import console
from effvim.datasets import ade, coco
from effvim.images import examine_image

CHUNK = 32  # images that are sent to a worker at once


class CocoImage(NamedTuple):
    """An image to examine, and its masks.

    Attributes:
        path: of the image.
        size: width and height in the annotation file.
        masks: annotation ID and segmentation of the well-formed masks.
    """

    path: Path
    size: tuple[float, float]
    masks: list[tuple[int, Any]]


class AdeImage(NamedTuple):
    """An image to examine, and its label map.

    Attributes:
        path: of the image.
        label_map: path of its label map.
        num_labels: see `ade.check_labels`.
        reduce_zero_label: see `ade.check_labels`.
    """

    path: Path
    label_map: Path
    num_labels: int
    reduce_zero_label: bool


class Result(NamedTuple):
    """What examining an image showed.

    Attributes:
        digest: hash of the file; empty if it cannot be decoded.
        unreadable: why it cannot be decoded; empty if it can.
        wrong: what is wrong with its size or label map; empty if nothing.
        empty_masks: annotation IDs of masks without a pixel.
        pixels: number of pixels of each value of the label map.
    """

    digest: bytes = b''
    unreadable: str = ''
    wrong: str = ''
    empty_masks: Sequence[int] = ()
    pixels: np.ndarray | None = None


def examine(image: CocoImage | AdeImage) -> Result:
    """Decode an image and its masks or label map."""
    try:
        size, digest = examine_image(image.path)
    except Exception as error:  # decoders raise whatever they like on foreign bytes
        return Result(unreadable=f'{image.path} ({" ".join(str(error).split())})')
    if isinstance(image, AdeImage):
        try:
            labels = ade.check_labels(
                image.label_map, size, image.num_labels, image.reduce_zero_label
            )
        except UserError as error:
            return Result(digest, wrong=str(error))
        return Result(digest, pixels=np.bincount(labels.ravel(), minlength=256))
    wrong = ''
    if size != image.size:
        wrong = (
            f'{image.path} has {size[0]} × {size[1]} pixels, the annotation file says '
            f'{image.size[0]} × {image.size[1]}'
        )
    width, height = map(int, image.size)
    empty = [
        number
        for number, segmentation in image.masks
        if not rle.area(coco.encode_mask(segmentation, width, height))
    ]
    return Result(digest, wrong=wrong, empty_masks=empty)


def examine_all(images: Sequence[CocoImage | AdeImage], workers: int, title: str) -> list[Result]:
    """Examine every image, in order, with a progress bar.

    Args:
        images: what to examine.
        workers: number of worker processes; 0 for this process.
        title: of the progress bar.
    """
    if not workers:
        return _collect(map(examine, images), len(images), title)
    # A forked worker starts at once. It lacks the threads of this process, but uses only one.
    fork = 'fork' in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('fork' if fork else None)
    initializer = _silence if fork else _initialize
    pool = ProcessPoolExecutor(workers, context, initializer=initializer)
    try:
        with _one_thread():
            return _collect(pool.map(examine, images, chunksize=CHUNK), len(images), title)
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, also in processes that are forked meanwhile: workers share the cores.

    OpenCV ends its threads when their number changes. A forked process waits forever for those that
    its parent had, so the number is changed before.
    """
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])


def _silence() -> None:
    """Silence the decoders."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stderr__.fileno())


def _initialize() -> None:
    """Prepare a worker that has inherited nothing."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _silence()


def _collect(results: Iterable[Result], total: int, title: str) -> list[Result]:
    with console.progress(f'{title} images') as bar:
        return list(bar.track(results, total))
