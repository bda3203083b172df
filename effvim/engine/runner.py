"""mmengine's Runner with quiet logs, strict loading, and checkpoints that say what they are."""

from __future__ import annotations

import contextlib
import functools
import inspect
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
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from backbone import EfficientViM
from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import checkpoint as ckpt
from effvim.checkpoints.matching import fit_state_dict
from effvim.checkpoints.versions import versions
from effvim.config.classes import class_layers
from effvim.config.run_spec import RunSpec
from effvim.datasets import samplers, transforms
from effvim.datasets.garbage_collection import garbage_collection_paused
from effvim.engine import amp, config_text, ema, optimizer
from effvim.engine.hooks import EffViMCheckpointHook, EffViMProgressHook
from effvim.engine.progress import by_epoch
from effvim.inference import exported_model, tiled_model

REGISTERED = (amp, exported_model, tiled_model)  # imported so that configs can name what is in them

config_text.install()

# Warnings that do not help a user; the second comes for each parameter that is not trained, the
# last is wrong here, see EffViMResumeHook.
NOISE = re.compile(
    'deprecated|is skipped since |prefix is not set|not divisible by `_accumulative_counts`'
)


class Runner(MMRunner):
    """`mmengine.runner.Runner`, with what is said above.

    Args:
        cfg: the config, ready to run.
        spec: what the run is; its checkpoints say so, see `effvim.checkpoints.checkpoint.describe`.
    """

    def __init__(self, cfg: Config, spec: RunSpec) -> None:
        self.spec = spec
        arguments = inspect.signature(MMRunner.__init__).parameters
        super().__init__(**{name: cfg[name] for name in arguments if name in cfg}, cfg=cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build mmengine's logger: everything goes into the file, only warnings to the console."""
        logger = super().build_logger(*args, **kwargs)
        logging.raiseExceptions = False  # a full disk ends in one line of our own
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)
                handler.addFilter(lambda record: not NOISE.search(record.getMessage()))
        return logger

    def build_evaluator(self, *args: Any, **kwargs: Any) -> Evaluator:
        """Build mmengine's evaluator quietly."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
            built = super().build_evaluator(*args, **kwargs)
        for metric in built.metrics:  # ranks would exchange results in the current directory
            if metric.collect_device == 'cpu' and not metric.collect_dir:
                metric.collect_dir = str(Path(self.work_dir, 'collected'))
        return built

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """Build the visualizer of this run alone.

        mmengine keeps visualizers by name. Configs of mmdet and mmseg name theirs, so that a second
        run in a process would get that of the first, with its directory.
        """
        if isinstance(visualizer, Mapping):
            visualizer = {key: value for key, value in visualizer.items() if key != 'name'}
        return super().build_visualizer(visualizer)

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Wrap the model for several ranks; without a GPU with BN, as SyncBN has no CPU kernels."""
        if not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_model(self, model: Any) -> nn.Module:
        """Build the model; on a CPU in channels-last format, which its convolutions prefer."""
        built = super().build_model(model)
        if not torch.cuda.is_available():
            built = built.to(memory_format=torch.channels_last)
        return built

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop, over data that can be resumed at any batch."""
        if isinstance(loop, Mapping):  # otherwise it is built already
            if 'by_epoch' in loop:
                kind = 'EpochBased' if loop['by_epoch'] else 'IterBased'
                loop = {key: value for key, value in loop.items() if key != 'by_epoch'}
                loop['type'] = f'{kind}TrainLoop'
            by_epoch = loop['type'] == 'EpochBasedTrainLoop'
            if by_epoch:
                loop = {**loop, 'type': 'EffViMResumableEpochLoop'}
            self._train_dataloader = samplers.resumable(self._train_dataloader, by_epoch)  # type: ignore[has-type]
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader whose errors name the image that cannot be read.

        The loading transforms are wrapped after construction, since the dataset builds them; that
        is done here and, for pipelines that mmdet's PipelineSwitchHook sets, in
        `EffViMSeededDataset`.
        """
        with contextlib.redirect_stdout(io.StringIO()), garbage_collection_paused():
            loader = MMRunner.build_dataloader(*args, **kwargs)  # pycocotools reports its progress
        dataset = getattr(loader.dataset, 'dataset', loader.dataset)
        if hasattr(dataset, 'cat_img_map'):
            # It was needed to filter images. Its numbers are scattered over the memory of all that
            # mmdet has read, which could not be freed: 2 GiB for COCO.
            dataset.cat_img_map = {}
        loader.generator = torch.Generator()  # starting workers draws none of the model's numbers
        loader.worker_init_fn = functools.partial(begin_worker, loader.worker_init_fn)
        transforms.check_while_loading(loader.dataset)
        return loader

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        """Build the optim wrapper; keys of its config that would change nothing are errors."""
        if isinstance(optim_wrapper, Mapping):
            optimizer.check_type(optim_wrapper)
            optimizer.check_custom_keys(self.model, optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def train(self) -> nn.Module:
        """Train as mmengine does, without torch's warning that an accumulating run skips steps."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Detected call of `scheduler.step')
            return super().train()

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None
    ) -> None:
        """Scale the learning rate with the total batch size, accumulated batches included."""
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
        """Load weights; no tensor may be missing, unexpected or of another shape.

        With `strict=False` (fine-tuning through `load_from`) layers whose size depends on the
        classes may differ; they stay randomly initialised and are listed. With `raw` the weights
        behind an average are loaded, see `effvim.engine.ema`.

        Raises:
            UserError: the file cannot be read or does not fit.
        """
        checkpoint = ckpt.read(filename)
        (checkpoint.get('meta') or {}).pop('config', None)  # mmengine's resume would execute it
        state = ema.raw_weights(checkpoint) if raw else checkpoint['state_dict']
        model = self.model
        while hasattr(model, 'module'):  # distributed training, test-time augmentation
            model = model.module
        checkpoint['state_dict'] = fit_state_dict(
            model, state, filename, None if strict else functools.partial(class_layers, self.cfg)
        )
        # EMAHook swaps averaged and raw weights here, EffViMResumeHook keeps what it restores
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        if self.rank == 0:
            hashed = ckpt.is_hashed(filename)
            console.say(f'loaded {filename} ({"verified" if hashed else "unverified: no hash"})')
        return checkpoint

    def load_or_resume(self) -> None:
        """Load or resume as mmengine does; a checkpoint of `load_from` may have other classes."""
        if not self._has_loaded and not self._resume and self._load_from:
            self.load_checkpoint(self._load_from, strict=False)
        super().load_or_resume()
        if self._resume:
            self.dump_config()

    def dump_config(self) -> None:
        """Write the config next to the checkpoints, as mmengine does.

        A run that is resumed does so when its checkpoint fits: until then the file is the config
        of the run before, which its checkpoints need.
        """
        if self._has_loaded or not self._resume:
            super().dump_config()

    def save_checkpoint(
        self, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Save as mmengine does, with what the checkpoint is in `meta['effvim']`.

        Raises:
            UserError: the backbone is folded, and its file could not be trained.
        """
        if any(isinstance(m, EfficientViM) and m.fused for m in self.model.modules()):
            raise UserError(
                'a folded network is not saved as a checkpoint: keep the one that it was loaded '
                'from'
            )
        batches = len(self.train_dataloader)
        done: int = (meta or {})['iter'] if meta and 'iter' in meta else self.iter
        position = {
            'epoch': done // batches,
            'batch': done % batches,
            'batches_per_epoch': batches,
        }
        if not by_epoch(self):
            position = {'batch': done}  # of one endless stream
        described = {**self.spec.to_dict(), 'versions': versions(), 'position': position}
        super().save_checkpoint(*args, meta={**(meta or {}), 'effvim': described}, **kwargs)


@contextlib.contextmanager
def closing(runner: Runner) -> Iterator[None]:
    """Restore terminal and signal handlers, also after an error; mmengine does so on success."""
    try:
        yield
    finally:
        for hook in runner.hooks:
            if isinstance(hook, (EffViMProgressHook, EffViMCheckpointHook)):
                hook.after_run(runner)


def begin_worker(init: Callable[[int], None] | None, number: int) -> None:
    """Start a loader worker: signals to the process group are for the main process alone."""
    if hasattr(os, 'setpgid'):  # not on Windows, which sends no signals to groups
        os.setpgid(0, 0)
    if init:
        init(number)
