"""The batch sampler that skips the batches which a stopped run has trained on."""

import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler

from effvim.datasets.samplers import EffViMResumableBatchSampler


@pytest.mark.parametrize(
    ('workers', 'persistent'), [(0, False), (1, False), (1, True), (2, False), (2, True)]
)
def test_only_the_first_epoch_skips_batches(workers, persistent):
    """With workers, torch begins to iterate twice."""
    numbers = torch.arange(10)
    sampler = EffViMResumableBatchSampler(SequentialSampler(numbers), batch_size=2)
    loader = DataLoader(
        numbers, batch_sampler=sampler, num_workers=workers, persistent_workers=persistent
    )
    sampler.done = 3
    assert len(sampler) == 5
    assert [batch.tolist() for batch in loader] == [[6, 7], [8, 9]]
    assert [batch.tolist() for batch in loader] == [[i, i + 1] for i in range(0, 10, 2)]
