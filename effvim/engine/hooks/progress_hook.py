"""Progress on the console: epoch, iteration, loss, time left, memory."""

from __future__ import annotations

import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from effvim import console
from effvim.engine import optimizer
from effvim.engine.memory import peak_memory
from effvim.engine.progress import by_epoch, format_duration, position_of
from effvim.engine.reminder import Reminder

SILENCE = 30  # seconds, at most, without a line where there is no bar


@HOOKS.register_module()
class EffViMProgressHook(Hook):
    """Shows a bar on a terminal; elsewhere prints lines.

    A line is printed every `interval` iterations, and at least every 30 seconds, also while a
    single iteration takes longer.
    """

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self.bar: Progress | None = None
        self.reminder: Reminder | None = None
        self.doing = ''  # what takes so long

    def _start(self, runner: Any) -> None:
        self.began = time.monotonic()
        terminal = Console()
        if runner.rank == 0 and not terminal.is_terminal:
            self.reminder = Reminder(SILENCE, self._remind)
        elif runner.rank == 0:
            # not console.progress: whole epochs come and go under one bar, with figures
            self.bar = Progress(
                TextColumn('{task.description}'),
                BarColumn(bar_width=24),
                TextColumn('{task.completed}/{task.total}  {task.fields[text]}'),
                console=terminal,
            )
            self.task = self.bar.add_task('', total=None, text='')
            self.bar.start()

    def _remind(self, seconds: float) -> None:
        console.say(f'{self.doing} has been running for {format_duration(seconds)}')

    def _show(self, title: str, done: int, total: int, text: str) -> None:
        if self.bar:
            self.bar.update(self.task, description=title, completed=done, total=total, text=text)
        elif self.reminder:
            due = time.monotonic() - self.reminder.spoken >= SILENCE
            if due or done % self.interval == 0 or done == total:
                console.say(f'{title}  {done}/{total}  {text}')
                self.reminder.touch()
            self.doing = f'{title}  {done + 1}/{total}'
            if done == total:
                evaluates = title in ('validation', 'test')
                self.doing = 'computing the metrics' if evaluates else f'saving after {title}'

    def before_train(self, runner: Any) -> None:
        """Print what the backbone starts from and the weight decay; start the bar."""
        model = getattr(runner.model, 'module', runner.model)
        backbone = getattr(model, 'backbone', None)
        if runner.rank == 0:
            if hasattr(backbone, 'load_report'):
                console.say(f'backbone: {backbone.load_report}')
            groups = runner.optim_wrapper.optimizer.param_groups
            console.say(optimizer.weight_decay(model, groups))
        self.first = runner.iter  # not in _start: a test would build the training data
        self.doing = 'the first iteration'
        self._start(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show epoch, iteration, loss, time left and memory."""
        done = runner.iter + 1 - self.first
        left = (time.monotonic() - self.began) / done * (runner.max_iters - runner.iter - 1)
        losses = runner.message_hub.log_scalars.get('train/loss')  # none yet if a batch was bad
        loss = losses.mean(10) if losses else float('nan')
        if by_epoch(runner):
            title = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
            total = len(runner.train_dataloader)
        else:
            title, total = 'iteration', runner.max_iters
        text = f'loss {loss:.3f}  eta {format_duration(left)}  memory {peak_memory():,} MiB'
        if runner.rank == 0:
            self._show(title, batch_idx + 1, total, text)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how far the validation is."""
        self._eval('validation', runner, batch_idx, len(runner.val_dataloader))

    def before_test(self, runner: Any) -> None:
        """Start the bar."""
        self.doing = 'the first batch'
        self._start(runner)

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Show how far the test is."""
        self._eval('test', runner, batch_idx, len(runner.test_dataloader))

    def _eval(self, title: str, runner: Any, batch_idx: int, total: int) -> None:
        if runner.rank == 0:
            self._show(title, batch_idx + 1, total, f'memory {peak_memory():,} MiB')

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Print the main metric of a validation."""
        main = next(iter((metrics or {}).items()), None)
        if main and runner.rank == 0:
            console.say(f'{position_of(runner)}  {main[0]} {main[1]:.4f}')

    def after_run(self, runner: Any) -> None:
        """Stop the bar."""
        if self.bar:
            self.bar.stop()
            self.bar = None
        if self.reminder:
            self.reminder.end()
            self.reminder = None
