"""TODO effvim.engine.hooks.resume_hook."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from effvim.engine.progress import by_epoch
from effvim.engine.randomness import random_states


@HOOKS.register_module()
class EffViMResumeHook(Hook):
    """What mmengine leaves out of checkpoints, and of going on from them."""

    priority = 'LOWEST'  # in before_train a validation follows that needs the other hooks

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the random states, and the gradients of a group of batches that is not complete."""
        model = getattr(runner.model, 'module', runner.model)
        checkpoint['random_states'], *others = runner.random_states or [random_states()]
        if others:
            checkpoint['random_states_of_others'] = others  # from rank 1 on
        checkpoint['gradients'] = {
            name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None
        }

    def before_train(self, runner: Any) -> None:
        """Validate, if the checkpoint was written when it was time for that."""
        if runner.owes_validation:
            runner.val_loop.run()


def owes_validation(runner: Any) -> bool:
    """Whether the checkpoint that `runner` has resumed from was written just before a validation.

    One that was written after it (a best score was new, or it was the last) says so.
    """
    if runner.val_loop is None or runner.message_hub.get_info('loop_stage') != 'train':
        return False
    loop = runner.train_loop
    loop._decide_current_val_interval()
    if by_epoch(runner):
        done, whole = runner.epoch, runner.max_epochs
        if loop.done:
            return False
    else:
        done, whole = runner.iter, runner.max_iters
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == whole)
