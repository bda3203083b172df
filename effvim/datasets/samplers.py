"""Samplers that make order and augmentation depend on seed, epoch and image alone.

mmengine seeds loader workers: how an image is augmented depends on what its worker loaded before
it, hence on the number of workers and on where an earlier run ended. And mmengine's epochs can only
begin at their first batch. With these samplers a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

from effvim.datasets import transforms


class SeededIndex(int):
    """An index into a dataset that carries the random seed for augmenting its image."""

    seed: int


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block; afterwards their states are as before.

    Without workers, images are augmented in the process that trains, whose random numbers are the
    model's.
    """
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # not the GPU's
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


@DATASETS.register_module()
class EffViMSeededDataset(Dataset):
    """A dataset that augments each image with the random seed of its `SeededIndex`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, SeededIndex):
            return self.dataset[index]
        with seeded(index.seed):
            return self.dataset[index]

    @property
    def pipeline(self) -> Any:
        """That of the dataset inside. mmdet's PipelineSwitchHook sets another."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        self.dataset.pipeline = pipeline
        transforms.check_while_loading(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # not there yet while this is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@DATA_SAMPLERS.register_module()
class EffViMSeededSampler(Sampler):
    """A sampler that yields `SeededIndex`es, seeded by run, epoch and index.

    Args:
        dataset: the dataset.
        seed: of the run; None lets the sampler inside draw one.
        sampler: the config of the sampler inside, which chooses the order.
    """

    def __init__(self, dataset: Any, seed: int | None, sampler: Any) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.dataset = dataset  # AspectRatioBatchSampler asks for the images' sizes
        self.seed: int = self.sampler.seed  # drawn there if it was None
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[SeededIndex]:
        for index in self.sampler:
            yield self.seeded_index(index, self.epoch)

    def seeded_index(self, index: int, epoch: int) -> SeededIndex:
        """`index` with its random seed in `epoch`."""
        seeded_index = SeededIndex(index)
        entropy = np.random.SeedSequence((self.seed, epoch, index))
        seeded_index.seed = int(entropy.generate_state(1)[0])
        return seeded_index

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as for mmengine's samplers."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)


@DATA_SAMPLERS.register_module()
class EffViMSeededInfiniteSampler(EffViMSeededSampler):
    """The same for mmengine's InfiniteSampler; an epoch is one pass over the dataset."""

    skipped = 0

    def skip(self, number: int) -> None:
        """Skip the first `number` indices of this process; mmengine's loop calls it to resume."""
        self.skipped = number

    def __iter__(self) -> Iterator[SeededIndex]:
        rank, world_size = get_dist_info()
        for position, index in itertools.islice(enumerate(self.sampler), self.skipped, None):
            yield self.seeded_index(index, (position * world_size + rank) // len(self.sampler))


@DATA_SAMPLERS.register_module()
class EffViMResumableBatchSampler(Sampler):
    """A batch sampler whose next epoch skips the first `done` batches.

    Args:
        sampler: of the indices.
        batch_size: their number in a batch.
        batch_sampler: the config of the batch sampler inside (default: torch's BatchSampler).
        drop_last: drop an incomplete last batch.
    """

    done = 0

    def __init__(
        self, sampler: Any, batch_size: int, batch_sampler: Any = None, drop_last: bool = False
    ) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self.drop_last = drop_last
        if batch_sampler:
            given = dict(sampler=sampler, batch_size=batch_size)
            self.batches = DATA_SAMPLERS.build(batch_sampler, default_args=given)
        else:
            self.batches = BatchSampler(sampler, batch_size, drop_last)

    def __len__(self) -> int:
        if self.drop_last:
            return len(self.sampler) // self.batch_size
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        # When the first batch is asked for, not before: a loader with workers makes two iterators
        # for its first epoch and uses the second.
        done, self.done = self.done, 0
        least = self.batch_size if self.drop_last else 1
        whole = (batch for batch in self.batches if len(batch) >= least)
        yield from itertools.islice(whole, done, None)


def resumable(dataloader: Mapping[str, Any], by_epoch: bool) -> dict[str, Any]:
    """Change a training loader's config so that it can resume anywhere with the same images.

    Args:
        dataloader: the config, not changed in place.
        by_epoch: whether the training loop counts epochs; otherwise iterations.
    """
    infinite = str(dataloader['sampler']['type']).endswith('InfiniteSampler')
    changed = {
        **dataloader,
        'dataset': dict(type='EffViMSeededDataset', dataset=dataloader['dataset']),
        'sampler': dict(
            type='EffViMSeededInfiniteSampler' if infinite else 'EffViMSeededSampler',
            sampler=dataloader['sampler'],
        ),
    }
    if by_epoch:
        changed['batch_sampler'] = dict(
            type='EffViMResumableBatchSampler',
            batch_sampler=dataloader.get('batch_sampler'),
            drop_last=changed.pop('drop_last', False),
        )
    return changed
