"""Training data whose order and augmentation depend on the seed, the epoch and the picture alone.

mmengine seeds loader workers: what a picture looks like depends on what its worker loaded before
it, hence on their number and on where an earlier run ended. And its epochs begin at their first
batch only.
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
    """An index into a data set that brings along the seed of what is random about its picture."""

    seed: int


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's random numbers start from `seed`; afterwards all is as before.

    Without workers pictures are made in the process that trains, whose numbers are the model's.
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
    """A data set that makes each picture from the random numbers of its `Sample`."""

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
        """The data set's own. mmdet's PipelineSwitchHook sets another."""
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
    """A sampler whose indices are `Sample`s, seeded by run, epoch and index.

    sampler: the config of the sampler that chooses the order.
    """

    def __init__(self, dataset: Any, seed: int | None, sampler: Any) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.dataset = dataset  # AspectRatioBatchSampler asks for the pictures' sizes
        self.seed: int = self.sampler.seed  # drawn there if it was None
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[SeededIndex]:
        for index in self.sampler:
            yield self.sample(index, self.epoch)

    def sample(self, index: int, epoch: int) -> SeededIndex:
        """`index` in `epoch`."""
        sample = SeededIndex(index)
        sample.seed = int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0])
        return sample

    def set_epoch(self, epoch: int) -> None:
        """As mmengine's samplers."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)


@DATA_SAMPLERS.register_module()
class EffViMSeededInfiniteSampler(EffViMSeededSampler):
    """The same around mmengine's InfiniteSampler, where an epoch is one pass over the data."""

    skipped = 0

    def skip(self, number: int) -> None:
        """Start after the first `number` indices of this process; mmengine's loop asks for it."""
        self.skipped = number

    def __iter__(self) -> Iterator[SeededIndex]:
        rank, processes = get_dist_info()
        for position, index in itertools.islice(enumerate(self.sampler), self.skipped, None):
            yield self.sample(index, (position * processes + rank) // len(self.sampler))


@DATA_SAMPLERS.register_module()
class EffViMResumableBatchSampler(Sampler):
    """Batches of another batch sampler; the next epoch starts after the first `done` of them."""

    done = 0

    def __init__(
        self, sampler: Any, batch_size: int, batch_sampler: Any = None, drop_last: bool = False
    ) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self.batches = (
            BatchSampler(sampler, batch_size, drop_last)
            if not batch_sampler
            else (
                DATA_SAMPLERS.build(
                    batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
                )
            )
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        done, self.done = self.done, 0
        return itertools.islice(iter(self.batches), done, None)


def resumable(dataloader: Mapping[str, Any], by_epoch: bool) -> dict[str, Any]:
    """The config of a training loader that can start anywhere and gives the same pictures."""
    endless = str(dataloader['sampler']['type']).endswith('InfiniteSampler')
    changed = {
        **dataloader,
        'dataset': dict(type='EffViMSeededDataset', dataset=dataloader['dataset']),
        'sampler': dict(
            type='EffViMSeededInfiniteSampler' if endless else 'EffViMSeededSampler',
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
