"""What training and evaluation can be asked for; importing this needs no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from backbone.errors import UserError
from effvim.checkpoints.kinds import is_exported
from effvim.config.augmentation import PRESETS
from effvim.config.run_spec import LARGEST_SEED, ModelChoices
from effvim.config.runtime import RuntimeChoices
from effvim.config.tiling import Tiling

MIN_IMAGE_SIZE = 128  # pixels: two cells of the coarsest map


@dataclasses.dataclass(kw_only=True)
class TrainSettings(ModelChoices):
    """The choices of a training run; see `effvim.train` for what each means."""

    config: str
    data: str | Path | None = None
    epochs: int | None = None
    image_size: int | None = None
    augment: str | None = None
    patience: int | None = None
    resume: str | Path | bool | None = None
    seed: int | None = None
    amp: bool = False
    auto_scale_lr: bool = False
    auto_batch: bool = False
    ema: bool = False
    skip_bad_batches: int = 0
    tensorboard: bool = False
    launcher: str = 'none'

    def without_data(self) -> TrainSettings:
        """The same without what `--data` is fitted by, which a checkpoint remembers."""
        return dataclasses.replace(
            self, data=None, epochs=None, image_size=None, augment=None, patience=None
        )

    def check(self) -> None:
        """Check the choices against each other.

        Raises:
            UserError: two of them contradict each other, or a number is out of range.
        """
        if self.resume and (self.data or self.without_data() != self):
            folder = f' --work-dir {self.work_dir}' if self.work_dir else ''
            raise UserError(
                f'--resume continues a run that knows its data: drop --data, --epochs, '
                f'--image-size, --augment and --patience: effvim train '
                f'{Path(self.config).stem}{folder} --resume'
            )
        if self.data and (self.mini or self.data_root):
            raise UserError('--data names the dataset: drop --mini and --data-root')
        for name in ('epochs', 'image_size', 'augment', 'patience'):
            flag = f'--{name.replace("_", "-")}'
            if getattr(self, name) is not None and not self.data:
                instead = '; otherwise use --cfg-options train_cfg.max_epochs=…'
                raise UserError(f'{flag} goes with --data{instead * (name == "epochs")}')
        for name, least in (('epochs', 1), ('patience', 1), ('image_size', MIN_IMAGE_SIZE)):
            number = getattr(self, name)
            if number is not None and number < least:
                flag = f'--{name.replace("_", "-")}'
                raise UserError(f'{flag} must be at least {least}, got {number}')
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f'--seed must be from 0 to {LARGEST_SEED}, got {self.seed}')
        if self.augment not in (None, *PRESETS):
            raise UserError(f'--augment takes {", ".join(PRESETS)}, got {self.augment!r}')
        if self.data and self.auto_scale_lr:
            raise UserError('--data chooses the learning rate itself: drop --auto-scale-lr')
        self.asked()
        self.check_skipping(self.skip_bad_batches)

    def check_skipping(self, skip_bad_batches: int) -> None:
        """Check a number of batches to skip, this run's or one that a checkpoint remembers.

        Raises:
            UserError: it is negative, or there are several ranks.
        """
        if skip_bad_batches < 0 or (skip_bad_batches and self.launcher != 'none'):
            raise UserError(
                '--skip-bad-batches N takes a number from 0, on one process only: the batches of '
                'several ranks make one step'
            )


@dataclasses.dataclass(kw_only=True)
class EvaluationSettings(ModelChoices):
    """The choices of an evaluation; see `effvim.evaluate` for what each means."""

    checkpoint: str
    out: str | Path | None = None
    show_dir: str | Path | None = None
    report: str | Path | None = None
    fuse: bool = False
    amp: bool = False
    tta: bool = False
    raw: bool = False
    launcher: str = 'none'
    tile: int | None = None
    overlap: float = Tiling.overlap
    runtime: RuntimeChoices = dataclasses.field(default_factory=RuntimeChoices)

    @property
    def tiling(self) -> Tiling | None:
        """The tiles in which images are predicted, if they are."""
        return None if self.tile is None else Tiling(self.tile, self.overlap)

    @property
    def is_exported(self) -> bool:
        """Whether an exported file is evaluated."""
        return is_exported(self.checkpoint)

    def check(self) -> None:
        """Check the choices against each other.

        Raises:
            UserError: one of them cannot be had with the others, or for an exported file.
        """
        self.asked()
        self.runtime.check(self.checkpoint)
        if self.report and self.tta:
            raise UserError('--report shows the predictions of the plain test: drop --tta')
        if self.tiling:
            self.tiling.check()
            for flag in ('tta', 'report'):
                if getattr(self, flag):
                    raise UserError(f'--{flag} is for whole images: drop it, or --tile')
        if self.out and Path(self.out).is_dir():
            raise UserError(f'--out {self.out} is a directory: pass the name of a file')
        if not self.is_exported:
            return
        for flag in ('fuse', 'amp', 'tta', 'raw'):
            if getattr(self, flag):
                raise UserError(f'--{flag} is for checkpoints, {self.checkpoint} is fixed: drop it')
        if self.launcher != 'none':
            raise UserError('--launcher: an exported file is evaluated in one process: drop it')
