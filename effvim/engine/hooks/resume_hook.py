"""What mmengine omits from checkpoints, and from resuming from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.engine.accumulation import COUNTED
from effvim.engine.loops import EffViMResumableEpochLoop
from effvim.engine.progress import by_epoch
from effvim.engine.randomness import random_states, restore_random_states

STATES = 'random_states'


@HOOKS.register_module()
class EffViMResumeHook(Hook):
    """Lets a run continue from a checkpoint as if it had never stopped, bit for bit.

    mmengine hands a checkpoint to its hooks on both ways. While it is written, this hook adds the
    random states of all ranks (`EffViMCheckpointHook` gathers them and passes them in the meta
    data) and the gradients of an incomplete group of accumulated batches. When it has been loaded,
    this hook keeps it until training begins, when mmengine has restored the rest, and then
    restores gradients, position in the epoch and random states, and makes up for a validation that
    the checkpoint was written just before.
    """

    priority = 'LOWEST'  # a validation in before_train needs the other hooks, started

    def __init__(self) -> None:
        self.resumed: dict[str, Any] = {}  # the checkpoint, from loading until training begins

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add random states and gradients; mmengine calls this on the first rank."""
        states = checkpoint['meta'].pop(STATES, None) or [random_states()]
        checkpoint[STATES], *others = states
        if others:
            checkpoint[f'{STATES}_of_others'] = others  # from rank 1 on
        model = getattr(runner.model, 'module', runner.model)
        checkpoint['gradients'] = {
            name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint that training resumes from; `load_from` is none."""
        if runner._resume:
            count_as_now(runner, checkpoint)
            self.resumed = checkpoint

    def before_train(self, runner: Any) -> None:
        """Restore what mmengine has not, then validate if that is due.

        Raises:
            UserError: as `restore_position`.
        """
        checkpoint, self.resumed = self.resumed, {}
        if not checkpoint:
            return
        model = getattr(runner.model, 'module', runner.model)
        for name, parameter in model.named_parameters():
            if name in checkpoint.get('gradients', {}):
                parameter.grad = checkpoint['gradients'][name].to(parameter.device)
        restore_position(runner, checkpoint)
        if STATES in checkpoint:
            states = [checkpoint[STATES], *checkpoint.get(f'{STATES}_of_others', [])]
            restore_random_states(states[runner.rank if len(states) == runner.world_size else 0])
        if validation_is_due(runner, checkpoint):
            runner.val_loop.run()


def count_as_now(runner: Any, checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint count as if all epochs had had as many batches, and the run as many, as now.

    With another batch size, another number of processes or other data, iterations would otherwise
    stand for another part of the training: for the epoch that is to come, and in schedules that
    change the learning rate after each iteration. Only a checkpoint of the end of an epoch can be
    counted anew. mmengine ends schedules with the run by default, so a longer run has longer ones.
    """
    position, meta = position_of(checkpoint), checkpoint['meta']
    now = then = 1
    if isinstance(runner.train_loop, EffViMResumableEpochLoop):
        now = len(runner.train_dataloader)
        then = position.get('batches_per_epoch') or now
        if meta['iter'] != meta['epoch'] * then:
            return
        meta['iter'] = meta['epoch'] * now
        position['batches_per_epoch'] = now
    for built, saved, configs in _schedulers(runner, checkpoint):
        for k, (scheduler, state, config) in enumerate(zip(built, saved, configs)):
            fresh = scheduler.state_dict()
            factor = 1.0
            if now != then and config.get('convert_to_iter_based'):
                factor = now / then
            elif now != then and not scheduler.by_epoch:
                factor = change_of_length(fresh, state, config)
            saved[k] = at_same_point(fresh, state, factor)


def _schedulers(
    runner: Any, checkpoint: Mapping[str, Any]
) -> Iterator[tuple[list[Any], list[dict[str, Any]], list[Mapping[str, Any]]]]:
    """For each optimizer its schedulers, their states in a checkpoint, and their configs."""
    built, saved = runner.param_schedulers or [], checkpoint.get('param_schedulers') or []
    configs = runner.cfg.get('param_scheduler') or []
    if not isinstance(built, dict):  # one optimizer
        built, saved, configs = {'': built}, {'': saved}, {'': configs}
    for name, of_one in built.items():
        given = configs.get(name, configs)  # mmengine takes one list for all, too
        yield of_one, saved[name], given if isinstance(given, list) else [given]


# Of a scheduler's state: how far it is (-1: not begun), and how long it takes.
PROGRESS = ('_global_step', 'last_step')
LENGTHS = (*COUNTED, 'total_iters', 'periods', 'cumulative_periods', '_schedule_phases')


def change_of_length(
    now: Mapping[str, Any], then: Mapping[str, Any], config: Mapping[str, Any]
) -> float:
    """How many times as long a schedule is now, by the first of its config's lengths that differs.

    Args:
        now: state of the scheduler of the resumed run, as it was built.
        then: state in the checkpoint.
        config: of the scheduler; what it does not set depends on the length of the run.
    """
    for key in LENGTHS:
        if key in config:
            lengths = [state[key] for state in (now, then)]
            lengths = [max(x) if isinstance(x, Iterable) else x for x in lengths if x]
            if len(lengths) == 2 and lengths[0] != lengths[1]:
                return lengths[0] / lengths[1]
    return 1.0


def at_same_point(now: Mapping[str, Any], then: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The state of a scheduler, at the point of its schedule at which it was in another length.

    Args:
        now, then: see `change_of_length`.
        factor: how many times as long the schedule is now.
    """
    state = {**then, **{key: now[key] for key in LENGTHS if key in now}}
    state.update({key: round(state[key] * factor) for key in PROGRESS if state[key] > 0})
    if 'patience' not in state and state['begin'] <= state['_global_step'] < state['end']:
        state['last_step'] = state['_global_step'] - state['begin']  # it may have stood at its end
    return state


def position_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Where a checkpoint is in its epoch, as `Runner.save_checkpoint` says; may be empty."""
    described = ckpt.describe(checkpoint)
    return described.get('position') or described.get('place') or {}  # before version 0.2


def restore_position(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """Let the first epoch start after the batches that the checkpoint has been trained on.

    Raises:
        UserError: it is in the middle of an epoch that would now have other batches.
    """
    loop = runner.train_loop
    if not isinstance(loop, EffViMResumableEpochLoop):
        return
    position = position_of(checkpoint)
    now = len(runner.train_dataloader)
    batches = position.get('batches_per_epoch', now)
    done = runner.iter - runner.epoch * batches
    loop.done = done if 0 <= done <= batches else 0  # other programs count differently
    if loop.done and batches != now:
        raise UserError(
            f'--resume: {runner._load_from} is in the middle of an epoch of {batches} batches, now '
            f'one has {now}: keep dataset, batch size and number of processes until the epoch ends'
        )


def validation_is_due(runner: Any, checkpoint: Mapping[str, Any]) -> bool:
    """Whether the checkpoint that `runner` has resumed from was written just before a validation.

    One that was written after it (a best score was new, or it was the last) says so.
    """
    if runner.val_loop is None or not ckpt.is_validation_due(checkpoint):
        return False
    loop = runner.train_loop
    loop._decide_current_val_interval()
    if by_epoch(runner):
        if loop.done:
            return False
        done, total = runner.epoch, runner.max_epochs
    else:
        done, total = runner.iter, runner.max_iters
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == total)
