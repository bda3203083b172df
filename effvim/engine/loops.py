"""A training loop that can resume in the middle of an epoch."""

from __future__ import annotations

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class EffViMResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, whose first epoch can start after some of its batches.

    Attributes:
        done: how many batches of the next epoch have been trained on already.
    """

    done = 0

    def run_epoch(self) -> None:
        """Train on the remaining batches of the epoch."""
        done, self.done = self.done, 0
        self.dataloader.batch_sampler.done = done
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, batch in enumerate(self.dataloader, done):
            self.run_iter(number, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
