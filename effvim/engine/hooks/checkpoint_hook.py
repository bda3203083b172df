"""When checkpoints are written, and what mmengine leaves out of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS

from effvim.engine.randomness import random_states

ECHO = 2  # seconds in which torchrun passes on a signal that all processes were sent already


@HOOKS.register_module()
class EffViMCheckpointHook(CheckpointHook):
    """mmengine's, with these differences.

    - An old checkpoint goes when the new one is there, not before.
    - SIGTERM and SIGINT finish the iteration, write a checkpoint and end the process with status
      128 + signal; the second one ends it at once. Of several processes all do so after the same
      iteration, whichever was sent the signal.
    - The last checkpoint is written once more after the last validation: it says then that nothing
      is left to do.
    """

    def __init__(self, *args: Any, max_keep_ckpts: int = -1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep = max_keep_ckpts
        self.written = -1  # iterations that were done when the last checkpoint was written
        self.asked: signal.Signals | None = None
        self.asked_at = 0.0
        self.group: Any = None  # of all processes; apart, for it exchanges nothing but signals
        self.handlers: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Listen to signals."""
        super().before_train(runner)
        self.doomed: list[str] = []  # best checkpoints that a better one replaces
        self.file_backend.remove = self.doomed.append
        last = Path(runner.message_hub.get_info('last_ckpt', ''))
        if runner.iter and Path(self.out_dir, last.name).is_file():  # what the run has resumed from
            self.last_ckpt, self.written = str(last), runner.iter
        self.process = os.getpid()
        if dist.is_distributed():
            self.group = torch.distributed.new_group(backend='gloo')
        if threading.current_thread() is threading.main_thread():
            self.handlers = {
                number: signal.signal(number, self._ask)
                for number in (signal.SIGTERM, signal.SIGINT)
            }

    def after_run(self, runner: Any) -> None:
        """Leave signals to whom they belonged."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a loader worker, which inherited this
            return
        first, self.asked = not self.asked, signal.Signals(number)
        if not self.group:
            for each in self.handlers:
                signal.signal(each, signal.SIG_DFL)
            # not print: it may be what was interrupted
            os.write(
                2,
                f'{self.asked.name}: finishing this iteration, then a checkpoint; once '
                f'more ends at once\n'.encode(),
            )
        elif first:
            self.asked_at = time.monotonic()
        elif time.monotonic() > self.asked_at + ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _agreed(self) -> bool:
        """Whether to end now, the same for all processes."""
        if self.group:
            number = torch.tensor(int(self.asked or 0))
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, self.group)
            if not number:
                return False
            self.asked, self.asked_at = signal.Signals(int(number)), time.monotonic()
        return self.asked is not None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a checkpoint if it is time, or time to end."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._agreed():
            self._end(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End if asked to, as if validation had not begun: the next run will do it."""
        if self.group:
            loader = runner.val_dataloader
            share = len(loader.dataset) // runner.world_size  # what every process has at least
            if batch_idx >= share // (loader.batch_size or share + 1):
                return
        if not self._agreed():
            return
        runner.message_hub.update_info('loop_stage', 'train')
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # swaps the averaged and the raw weights back
        self._end(runner, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Write the best checkpoint, and the last one again."""
        super().after_val_epoch(runner, metrics)
        for path in self.doomed:
            Path(path).unlink()
        self.doomed.clear()
        if runner.iter == runner.max_iters and self.written == runner.iter:
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(
                runner, step, dict(epoch=runner.epoch, iter=runner.iter)
            )

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        name = self.filename_tmpl.format(step)
        known = [n for n in runner.message_hub.get_info('checkpoints', []) if n != name]
        known.append(name)
        old = known[: -self.keep] if self.keep > 0 else []
        # old ones included: they go for certain, even if this run is killed before it gets there
        runner.message_hub.update_info('checkpoints', known)
        self.written = meta['iter']
        for parameter in runner.model.parameters():  # each process has those of its own batches
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, 'mean')
        runner.random_states = dist.all_gather_object(random_states())
        super()._save_checkpoint_with_step(runner, step, meta)
        runner.random_states = []
        if dist.is_main_process():
            for each in old:
                Path(self.out_dir, each).unlink(missing_ok=True)
        runner.message_hub.update_info('checkpoints', known[len(old) :])

    def _end(self, runner: Any, done: int) -> None:
        assert self.asked
        if self.written != done:
            if self.by_epoch:
                self.filename_tmpl = 'iter_{}.pth'
            self._save_checkpoint_with_step(runner, done, dict(epoch=runner.epoch, iter=done))
        if runner.rank == 0:
            print(
                f'{self.asked.name}: ended after iteration {done}; --resume goes on from '
                f'{self.last_ckpt}',
                file=sys.stderr,
                flush=True,
            )
        if self.group:  # a launcher ends all when the first one leaves
            torch.distributed.barrier(self.group)
        raise SystemExit(128 + self.asked)
