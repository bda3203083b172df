"""Training stops when the loss or the gradient norm becomes NaN or infinite."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.engine.randomness import random_states

FILE = 'bad_batch.pth'


class _NotFinite(Exception):
    """Names what is not finite: the loss, or the gradient."""


@HOOKS.register_module()
class EffViMGuardHook(Hook):
    """Checks the loss, and the gradient norm where clipping computes it, before they do damage.

    A bad batch is saved for inspection as `bad_batch.pth` in the working directory: losses, file
    names and images of the batch, the parameters that were affected first, the weights. In
    distributed training a rank with a bad batch writes its own file, e.g. `rank_1_bad_batch.pth`,
    and ends.

    mmengine has no hook between a batch's loss and the optimizer step. Therefore `before_train`
    wraps three methods of this run's objects, and nothing else here or elsewhere does: the model's
    `parse_losses` (to keep the single losses for the message), the optim wrapper's `update_params`
    (to stop before a loss that is not finite is propagated), and its `clip_func` (to learn the
    gradient norm before it scales anything).

    Args:
        skip: how many batches may be skipped in all, each as if it had not been drawn; with 0 the
            first one ends the run. Not for distributed training, where the batches of all ranks
            make one step.
    """

    priority = 'HIGHEST'  # of a skipped batch the other hooks log nothing

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.losses: dict[str, Tensor] = {}
        self.buffers: list[Tensor] = []
        self.skipped_now = False

    def before_train(self, runner: Any) -> None:
        """Wrap the methods between the loss and the optimizer, see above."""
        self.model = getattr(runner.model, 'module', runner.model)
        self.model.parse_losses = functools.partial(self._parse, self.model.parse_losses)
        wrapper = runner.optim_wrapper
        wrapper.update_params = functools.partial(self._update, runner, wrapper.update_params)
        # a scaled loss may overflow: then the scaler itself skips the step
        if getattr(wrapper, 'grad_name', '') == 'grad_norm' and not hasattr(wrapper, 'loss_scaler'):
            wrapper.clip_func = clip_grad_norm

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, and the buffers, which the forward pass changes."""
        self.batch = data_batch
        if self.skip:
            self.buffers = [buffer.clone() for buffer in self.model.buffers()]

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Discard the losses of a skipped batch, so that no hook logs them."""
        if self.skipped_now:
            outputs.clear()
        self.skipped_now = False

    def after_train(self, runner: Any) -> None:
        """Print how many batches were skipped."""
        count = runner.message_hub.get_info('bad_batches', 0)
        if count and runner.rank == 0:
            console.say(
                f'{count} bad batches were skipped; losses and images of the last: '
                f'{Path(runner.work_dir, FILE)}'
            )

    def _parse(self, parse: Callable[..., Any], losses: Any) -> Any:
        total, self.losses = parse(losses)
        return total, self.losses

    def _update(
        self, runner: Any, update: Callable[..., None], loss: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        wrapper, before = runner.optim_wrapper, runner.optim_wrapper.inner_count
        try:
            if not math.isfinite(loss.detach()):
                raise _NotFinite('the loss')
            update(loss, *args, **kwargs)
        except _NotFinite as quantity:
            self._report(runner, str(quantity), loss)
            if wrapper.inner_count > before:  # its gradients are added to those of its group
                wrapper.zero_grad()
                return
            wrapper._inner_count += 1
            if wrapper.should_update() and any(p.grad is not None for p in self.model.parameters()):
                try:
                    wrapper.step()
                except _NotFinite as other:  # of an earlier batch of the group
                    self._report(runner, str(other), loss)
                wrapper.zero_grad()

    def _report(self, runner: Any, quantity: str, loss: Tensor) -> None:
        losses = {name: float(value.detach()) for name, value in self.losses.items()}
        images = [getattr(sample, 'img_path', '?') for sample in self.batch['data_samples']]
        affected = affected_parameters(self.model, loss)
        path = Path(runner.work_dir, f'rank_{runner.rank}_{FILE}' if runner.rank else FILE)
        ckpt.write(
            path,
            {
                'iteration': runner.iter + 1,
                'losses': losses,
                'images': images,
                'inputs': self.batch['inputs'],
                'affected': affected,
                'state_dict': self.model.state_dict(),
                'random_states': random_states(),
            },
        )
        count = runner.message_hub.get_info('bad_batches', 0) + 1
        runner.message_hub.update_info('bad_batches', count)
        first = 'no single parameter is affected, their norm overflows'
        if affected:
            first = f'first affected {", ".join(affected[:3])} ({len(affected)} parameters)'
        message = (
            f'iteration {runner.iter + 1}: {quantity} is not finite: '
            f'{", ".join(f"{name} {value:g}" for name, value in losses.items())}; images '
            f'{", ".join(images)}; {first}'
        )
        if count > self.skip:
            raise UserError(
                f'{message}; saved as {path}. Check the images and their annotations, '
                f'lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad, or continue '
                f'from a checkpoint with --resume --skip-bad-batches N'
                + (f' ({self.skip} were skipped)' if self.skip else '')
            )
        console.warn(f'{message}; skipped, {count} of at most {self.skip}')
        for buffer, value in zip(self.model.buffers(), self.buffers):
            buffer.copy_(value)
        self.skipped_now = True


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Clip gradients as torch does, but change none if their norm is not finite.

    Raises:
        _NotFinite: it is not.
    """
    try:
        return nn.utils.clip_grad_norm_(*args, **{**kwargs, 'error_if_nonfinite': True})
    except RuntimeError as error:
        if 'non-finite' not in str(error):
            raise
        raise _NotFinite('the gradient') from error


def affected_parameters(model: nn.Module, loss: Tensor) -> list[str]:
    """Names of parameters that are not finite, else of those whose gradients are not.

    Args:
        model: the model in training.
        loss: that of the bad batch. Gradients that have been accumulated are not changed.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    bad = [name for name, p in named.items() if not p.isfinite().all()]
    if bad:
        return bad
    grads = [p.grad for p in named.values()]
    if loss.grad_fn is not None and not math.isfinite(loss.detach()):
        # not backward: in distributed training it would add these to the other ranks' gradients
        grads = list(torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    return [
        name for name, grad in zip(named, grads) if grad is not None and not grad.isfinite().all()
    ]
