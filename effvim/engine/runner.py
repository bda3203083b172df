"""mmengine's Runner with quiet logs, strict loading, and checkpoints that know what they are."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner
from torch import nn
from torch.utils.data import DataLoader

from backbone import EfficientViM
from backbone.errors import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints.matching import fit_state_dict
from effvim.checkpoints.versions import versions
from effvim.datasets import samplers, transforms
from effvim.datasets.collection import garbage_collection_paused
from effvim.engine import ema, optimizer
from effvim.engine.hooks import guard_hook as _guards  # noqa: F401  # noqa: F401  registers its hook
from effvim.engine.hooks.checkpoint_hook import EffViMCheckpointHook
from effvim.engine.hooks.progress_hook import EffViMProgressHook
from effvim.engine.hooks.resume_hook import owes_validation
from effvim.engine.loops import EffViMResumableEpochLoop
from effvim.engine.progress import by_epoch
from effvim.engine.randomness import restore_random_states

# Warnings that say nothing to a person; the second comes for each parameter that is not trained,
# the last is not so here, see EffViMResumeHook.
NOISE = re.compile(
    'deprecated|is skipped since its requires_grad=False|prefix is not set|'
    'not divisible by `_accumulative_counts`'
)


class Runner(MMRunner):
    """`mmengine.runner.Runner`, with what is said above.

    Args:
        cfg: the config, ready to run.
        about: what a checkpoint of this run says of itself, see `effvim.checkpoint.describe`.
    """

    def __init__(self, cfg: Config, about: Mapping[str, Any]) -> None:
        self.about = dict(about)
        self.loaded: dict[str, Any] = {}  # the checkpoint, while it is being resumed from
        self.owes_validation = False
        self.random_states: list[dict[str, Any]] = []  # of all processes, while a checkpoint is due
        parts = {
            key: cfg.get(key)
            for key in (
                'model',
                'work_dir',
                'train_dataloader',
                'val_dataloader',
                'test_dataloader',
                'train_cfg',
                'val_cfg',
                'test_cfg',
                'optim_wrapper',
                'param_scheduler',
                'val_evaluator',
                'test_evaluator',
                'default_hooks',
                'custom_hooks',
                'data_preprocessor',
                'load_from',
                'visualizer',
            )
        }
        super().__init__(
            **parts,
            auto_scale_lr=cfg.get('auto_scale_lr'),
            resume=cfg.get('resume', False),
            launcher=cfg.get('launcher', 'none'),
            env_cfg=cfg.get('env_cfg', dict(dist_cfg=dict(backend='nccl'))),
            log_processor=cfg.get('log_processor'),
            log_level=cfg.get('log_level', 'INFO'),
            default_scope=cfg.get('default_scope', 'mmengine'),
            randomness=cfg.get('randomness', dict(seed=None)),
            experiment_name=cfg.get('experiment_name'),
            cfg=cfg,
        )

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The usual logger: everything into the file, warnings only on the console."""
        logger = super().build_logger(*args, **kwargs)
        logging.raiseExceptions = False  # a full disk ends with one line of ours
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(lambda record: not NOISE.search(record.getMessage()))
        return logger

    def build_evaluator(self, *args: Any, **kwargs: Any) -> Evaluator:
        """The usual evaluator, built in silence."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
            built = super().build_evaluator(*args, **kwargs)
        for metric in built.metrics:  # several processes would meet in the current folder
            if metric.collect_device == 'cpu' and not metric.collect_dir:
                metric.collect_dir = str(Path(self.work_dir, 'collected'))
        return built

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """The usual wrapper; without a GPU plain BN, since SyncBN has no kernels for CPUs."""
        if not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_model(self, model: Any) -> nn.Module:
        """The usual model; on a CPU in channels-last, where its convolutions are faster."""
        built = super().build_model(model)
        if not torch.cuda.is_available():
            built = built.to(memory_format=torch.channels_last)
        return built

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """The usual loop, over data that it can go on with anywhere."""
        if isinstance(loop, Mapping):  # else it is built already
            by_epoch = loop['type'] == 'EpochBasedTrainLoop'
            if by_epoch:
                loop = {**loop, 'type': 'EffViMResumableEpochLoop'}
            self._train_dataloader = samplers.resumable(self._train_dataloader, by_epoch)  # type: ignore[has-type]
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """The usual loader, whose pipeline names a picture that cannot be read."""
        with contextlib.redirect_stdout(io.StringIO()), garbage_collection_paused():
            loader = MMRunner.build_dataloader(*args, **kwargs)  # pycocotools reports its progress
        dataset = getattr(loader.dataset, 'dataset', loader.dataset)
        if hasattr(dataset, 'cat_img_map'):
            # Its numbers lie scattered among all that mmdet has read, and keep that from the
            # system: 2 GiB of COCO. They have served, to filter pictures.
            dataset.cat_img_map = {}
        loader.generator = torch.Generator()  # starting workers takes none of the model's numbers
        loader.worker_init_fn = functools.partial(begin_worker, loader.worker_init_fn)
        transforms.check_while_loading(loader.dataset)
        return loader

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """The usual wrapper; keys of its config that would change nothing are errors."""
        if isinstance(optim_wrapper, Mapping):
            optimizer.check_custom_keys(self.model, optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def train(self) -> nn.Module:
        """As mmengine's, without torch's warning that an accumulating run skips steps."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected call of `scheduler.step')
            return super().train()

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None
    ) -> None:
        """As mmengine's, where the batch is all that one step sees: accumulated ones too."""
        if auto_scale_lr:
            base = auto_scale_lr['base_batch_size'] / optim_wrapper._accumulative_counts
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': base}
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        raw: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Load weights; nothing may be missing, left over or of another shape.

        With `strict=False` (fine-tuning through `load_from`) layers whose size depends on the
        classes may differ; they keep their random start and are listed. With `raw` the weights
        behind an average are loaded, see `effvim.ema`.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        checkpoint = ckpt.read(filename)
        (checkpoint.get('meta') or {}).pop('config', None)  # mmengine's resume would execute it
        state = ema.raw_weights(checkpoint) if raw else checkpoint['state_dict']
        model = self.model
        while hasattr(model, 'module'):  # several processes, test-time augmentation
            model = model.module
        checkpoint['state_dict'] = fit_state_dict(
            model, state, filename, None if strict else self.cfg
        )
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)  # an average is swapped here
        model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.loaded = checkpoint if self._resume else {}
        self.logger.info(f'Load checkpoint from {filename}')
        if self.rank == 0:
            print(
                f'loaded {filename} ('
                f'{"verified" if ckpt.is_hashed(filename) else "unverified: without a hash"})'
            )
        return checkpoint

    def load_or_resume(self) -> None:
        """As mmengine's, `load_from` being what may have other classes."""
        if not self._has_loaded and not self._resume and self._load_from:
            self.load_checkpoint(self._load_from, strict=False)
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from `filename` exactly where it was written.

        Raises:
            UserError: in the middle of an epoch that would now have other batches.
        """
        super().resume(filename, *args, **kwargs)
        loaded, self.loaded = self.loaded, {}
        model = getattr(self.model, 'module', self.model)
        for name, parameter in model.named_parameters():
            if name in loaded.get('gradients', {}):
                parameter.grad = loaded['gradients'][name].to(parameter.device)
        if isinstance(self.train_loop, EffViMResumableEpochLoop):
            now = len(self.train_dataloader)
            place = ckpt.describe(loaded).get('place', {})
            batches = place.get('batches_per_epoch', now)
            done = self.iter - self.epoch * batches
            self.train_loop.done = done if 0 <= done <= batches else 0  # others count otherwise
            if self.train_loop.done and batches != now:
                raise UserError(
                    f'--resume: {filename} is in the middle of an epoch of {batches} '
                    f'batches, now one has {now}: keep data, batch size and number of '
                    f'processes until the epoch ends'
                )
        self.owes_validation = owes_validation(self)
        if 'random_states' in loaded:
            states = [loaded['random_states'], *loaded.get('random_states_of_others', [])]
            restore_random_states(states[self.rank if len(states) == self.world_size else 0])

    def save_checkpoint(
        self, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Save as mmengine does, and say what the checkpoint is.

        Raises:
            UserError: the backbone is folded: nothing could be trained from its file.
        """
        if any(isinstance(m, EfficientViM) and m.fused for m in self.model.modules()):
            raise UserError(
                'a folded network is not written as a checkpoint: keep the one that it '
                'was loaded from'
            )
        batches = len(self.train_dataloader)
        done: int = (meta or {})['iter'] if meta and 'iter' in meta else self.iter
        place = {'epoch': done // batches, 'batch': done % batches, 'batches_per_epoch': batches}
        if not by_epoch(self):
            place = {'batch': done}  # of one stream without end
        about = {**self.about, 'versions': versions(), 'place': place}
        super().save_checkpoint(*args, meta={**(meta or {}), 'effvim': about}, **kwargs)


@contextlib.contextmanager
def closing(runner: Runner) -> Iterator[None]:
    """Leave the terminal as it was, also after an error or an interruption."""
    try:
        yield
    finally:
        for hook in runner.hooks:
            if isinstance(hook, (EffViMProgressHook, EffViMCheckpointHook)):
                hook.after_run(runner)


def begin_worker(init: Callable[[int], None] | None, number: int) -> None:
    """What a loader worker does first: leave signals to a group of processes to the main one."""
    os.setpgid(0, 0)
    if init:
        init(number)
