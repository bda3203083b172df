"""When checkpoints are written: regularly, and when a signal asks the run to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS

from backbone.errors import UserError
from effvim import console
from effvim.engine.distributed import timeout_of
from effvim.engine.hooks.resume_hook import STATES
from effvim.engine.randomness import random_states

ECHO = 2  # seconds in which torchrun passes on a signal that every rank has received already


@HOOKS.register_module()
class EffViMCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with these differences.

    - An old checkpoint is removed when the new one is written, not before.
    - On SIGTERM or SIGINT the run finishes the iteration, writes a checkpoint and exits with status
      128 + signal; a second signal ends it at once. In distributed training all ranks stop after
      the same iteration, whichever received the signal.
    - The last checkpoint is written again after the last validation, and then records that the run
      is complete.
    - Gradients of an incomplete group of accumulated batches, and the random states, are gathered
      from all ranks; `EffViMResumeHook` writes them.
    """

    def __init__(self, *args: Any, max_keep_ckpts: int = -1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep = max_keep_ckpts
        self.written = -1  # iterations done when the last checkpoint was written
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self.group: Any = None  # all ranks, in a group of its own: it only exchanges signals
        self.handlers: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Install the signal handlers."""
        super().before_train(runner)
        self._find_own_files(runner)
        # mmengine removes the old best checkpoint before it writes the new one: only note it here
        self.replaced: list[str] = []
        self.file_backend.remove = self.replaced.append
        last = Path(runner.message_hub.get_info('last_ckpt', ''))
        if runner.iter and Path(self.out_dir, last.name).is_file():  # what the run has resumed from
            self.last_ckpt, self.written = str(last), runner.iter
        self.process = os.getpid()
        if dist.is_distributed():
            timeout = timeout_of(runner.cfg.get('env_cfg', {}).get('dist_cfg', {}))
            self.group = torch.distributed.new_group(backend='gloo', timeout=timeout)
        if threading.current_thread() is threading.main_thread():
            self.handlers = {
                number: signal.signal(number, self._receive)
                for number in (signal.SIGTERM, signal.SIGINT)
            }

    def _find_own_files(self, runner: Any) -> None:
        """Of what the checkpoint says of files and scores, keep what is of this directory.

        A run may continue one of another directory, or be a copy of it, whose files are not its
        own.
        """
        info = runner.message_hub.runtime_info
        folder = Path(self.out_dir)
        own = Path(getattr(runner, '_load_from', None) or '').resolve().parent == folder.resolve()
        for key in [key for key in info if key.startswith(('best_', 'checkpoints', 'last_ckpt'))]:
            if not own:
                del info[key]
            elif key.startswith('best_ckpt'):
                info[key] = str(folder / Path(info[key]).name)
        if self.save_best:  # mmengine has read them before
            if len(self.key_indicators) == 1:
                self.best_ckpt_path = info.get('best_ckpt')
            else:
                self.best_ckpt_path_dict = {
                    key: info.get(f'best_ckpt_{key}') for key in self.key_indicators
                }

    def after_run(self, runner: Any) -> None:
        """Restore the signal handlers that were there before."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a loader worker, which inherited the handler
            return
        first, self.received = not self.received, signal.Signals(number)
        if not self.group:
            for each in self.handlers:
                signal.signal(each, signal.SIG_DFL)
            # not through effvim.console: a print may be what the signal interrupted
            os.write(
                2,
                f'note: {self.received.name}: finishing this iteration, then saving a checkpoint; '
                f'send it again to end at once\n'.encode(),
            )
        elif first:
            self.received_at = time.monotonic()
        elif time.monotonic() > self.received_at + ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _stop_now(self) -> bool:
        """Whether to stop now; the same answer on all ranks."""
        if self.group:
            number = torch.tensor(int(self.received or 0))
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, self.group)
            if not number:
                return False
            self.received, self.received_at = signal.Signals(int(number)), time.monotonic()
        return self.received is not None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a checkpoint if one is due or the run is to stop."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._stop_now():
            self._end(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop if asked to, as if validation had not begun: it is repeated after resuming."""
        if self.group:
            loader = runner.val_dataloader
            fewest = len(loader.dataset) // runner.world_size  # images of any rank
            if batch_idx >= fewest // (loader.batch_size or fewest + 1):
                return
        if not self._stop_now():
            return
        runner.message_hub.update_info('loop_stage', 'train')
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # swaps the averaged and the raw weights back
        self._end(runner, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        """Write the best checkpoint, and the last one again if the run is complete.

        Raises:
            UserError: `save_best` names a metric that there is not.
        """
        for name in self.key_indicators if self.save_best else ():
            if name != 'auto' and name not in metrics:
                raise UserError(
                    f'default_hooks.checkpoint.save_best={name}: there is no such metric, only '
                    f'{", ".join(metrics)}'
                )
        super().after_val_epoch(runner, metrics)
        for path in self.replaced:
            Path(path).unlink()
        self.replaced.clear()
        if runner.iter == runner.max_iters and self.written == runner.iter:
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(
                runner, step, dict(epoch=runner.epoch, iter=runner.iter)
            )

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        """Write a checkpoint; on all ranks, since they contribute to it."""
        name = self.filename_tmpl.format(step)
        known = [n for n in runner.message_hub.get_info('checkpoints', []) if n != name]
        known.append(name)
        old = known[: -self.keep] if self.keep > 0 else []
        # old ones included: the next run removes them if this one is killed before it does
        runner.message_hub.update_info('checkpoints', known)
        self.written = meta['iter']
        for parameter in runner.model.parameters():  # each rank has those of its own batches
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, 'mean')
        meta = {**meta, STATES: dist.all_gather_object(random_states())}
        super()._save_checkpoint_with_step(runner, step, meta)
        if dist.is_main_process():
            for each in old:
                Path(self.out_dir, each).unlink(missing_ok=True)
        runner.message_hub.update_info('checkpoints', known[len(old) :])

    def _end(self, runner: Any, done: int) -> None:
        assert self.received
        if self.written != done:
            if self.by_epoch:
                self.filename_tmpl = 'iter_{}.pth'
            self._save_checkpoint_with_step(runner, done, dict(epoch=runner.epoch, iter=done))
        if runner.rank == 0:
            console.note(
                f'{self.received.name}: stopped after iteration {done}; --resume continues from '
                f'{self.last_ckpt}'
            )
        if self.group:  # a launcher ends all ranks when the first one exits
            torch.distributed.barrier(self.group)
        raise SystemExit(128 + self.received)
