"""Hooks around training and testing: progress for a person, curves and pictures."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from . import optim, plots


def peak_memory() -> int:
    """Peak memory in MiB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == 'darwin' else 2**10)


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on: annotations take more than training while they are read.

    Where the system does not offer that, it goes on from the start of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # Linux only, and not in every container
            Path('/proc/self/clear_refs').write_text('5')  # see proc(5)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:03:20."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{rest:02d}'


def by_epoch(runner: Any) -> bool:
    """Whether training is counted in epochs; else in iterations, over pictures without end."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def place(runner: Any) -> str:
    """How far training is, as it is counted: epoch 3, or iteration 4000."""
    return f'epoch {runner.epoch}' if by_epoch(runner) else f'iteration {runner.iter}'


@HOOKS.register_module()
class ProgressHook(Hook):
    """One updating line on a terminal; a plain line every `interval` iterations elsewhere."""

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self.console = Console()
        self.bar: Progress | None = None

    def _start(self, runner: Any) -> None:
        self.began = time.monotonic()
        if self.console.is_terminal and runner.rank == 0:
            self.bar = Progress(
                TextColumn('{task.description}'), BarColumn(bar_width=24),
                TextColumn('{task.completed}/{task.total}  {task.fields[text]}'),
                console=self.console,
            )
            self.task = self.bar.add_task('', total=None, text='')
            self.bar.start()

    def _show(self, what: str, done: int, total: int, text: str, line: bool) -> None:
        if self.bar:
            self.bar.update(self.task, description=what, completed=done, total=total, text=text)
        elif line:
            print(f'{what}  {done}/{total}  {text}', flush=True)

    def before_train(self, runner: Any) -> None:
        """Say what the backbone starts from and what decays; open the line."""
        model = getattr(runner.model, 'module', runner.model)
        backbone = getattr(model, 'backbone', None)
        if runner.rank == 0:
            if hasattr(backbone, 'load_report'):
                print(f'backbone: {backbone.load_report}')
            groups = runner.optim_wrapper.optimizer.param_groups
            print(optim.weight_decay(model, groups), flush=True)
        self.first = runner.iter  # in a test it would build the training data
        self._start(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Epoch, iteration, loss, time left, memory."""
        done = runner.iter + 1 - self.first
        left = (time.monotonic() - self.began) / done * (runner.max_iters - runner.iter - 1)
        losses = runner.message_hub.log_scalars.get('train/loss')  # none yet if a batch was bad
        loss = losses.mean(10) if losses else float('nan')
        if by_epoch(runner):
            what = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            total = len(runner.train_dataloader)
        else:
            what, total = 'iteration', runner.max_iters
        text = f'loss {loss:.3f}  eta {duration(left)}  memory {peak_memory():,} MiB'
        line = (batch_idx + 1) % self.interval == 0 or batch_idx + 1 == total
        if runner.rank == 0:
            self._show(what, batch_idx + 1, total, text, line)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """How far validation is."""
        self._eval('validation', runner, batch_idx, len(runner.val_dataloader))

    def before_test(self, runner: Any) -> None:
        """Open the line."""
        self._start(runner)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """How far the test is."""
        self._eval('test', runner, batch_idx, len(runner.test_dataloader))

    def _eval(self, what: str, runner: Any, batch_idx: int, total: int) -> None:
        line = (batch_idx + 1) % self.interval == 0 or batch_idx + 1 == total
        if runner.rank == 0:
            self._show(what, batch_idx + 1, total, f'memory {peak_memory():,} MiB', line)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """The main number of a validation."""
        main = next(iter((metrics or {}).items()), None)
        if main and runner.rank == 0:
            (self.bar.console.print if self.bar else print)(
                f'{place(runner)}  {main[0]} {main[1]:.4f}')

    def after_run(self, runner: Any) -> None:
        """Close the line."""
        if self.bar:
            self.bar.stop()
            self.bar = None


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draws `curves.png` in the work dir after each validation and at the end of training."""

    priority = 'LOWEST'

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Draw what there is so far."""
        if runner.rank == 0 and runner.iter:
            self.draw(runner)

    def after_train(self, runner: Any) -> None:
        """Draw the whole run."""
        if runner.rank == 0:
            self.draw(runner)

    @staticmethod
    def draw(runner: Any) -> None:
        """Draw `curves.png`."""
        unit = 'epoch' if by_epoch(runner) else 'iteration'
        plots.curves(Path(runner.work_dir), runner.about['began'], unit)


@HOOKS.register_module()
class PicturesHook(Hook):
    """Saves pictures of predictions beside the truth, the first `limit` of each evaluation.

    Args:
        folder: where to; a later evaluation replaces the pictures of an earlier one.
        limit: how many; None for all.
        score_thr: predictions of lower score, 0 to 1, are not drawn.
    """

    def __init__(self, folder: str, limit: int | None = 8, score_thr: float = 0.3) -> None:
        self.folder, self.limit, self.score_thr = Path(folder), limit, score_thr
        self.count = 0

    def before_val_epoch(self, runner: Any) -> None:
        """Begin anew."""
        self.count = 0

    before_test_epoch = before_val_epoch

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw the samples of this batch."""
        self._draw(runner, outputs, len(runner.val_dataloader.dataset))

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] = ()
    ) -> None:
        """Draw the samples of this batch."""
        self._draw(runner, outputs, len(runner.test_dataloader.dataset))

    def _draw(self, runner: Any, samples: Sequence[Any], size: int) -> None:
        for sample in samples:
            # processes take turns; at the end some repeat the first pictures
            number = self.count * runner.world_size + runner.rank + 1
            if number > (size if self.limit is None else min(self.limit, size)):
                return
            self.count += 1
            classes = runner.about['classes']
            name = f'{number:03d}_{Path(sample.img_path).stem}.png'
            plots.prediction_beside_truth(sample, classes, self.folder / name, self.score_thr)
