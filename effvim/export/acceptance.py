"""Which exported files are accepted: those whose results are those of the model in PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmcv
import torch
from mmengine.config import Config
from torch import Tensor

from backbone.errors import UserError
from effvim import console
from effvim.checkpoints import exported
from effvim.config.structure import pair
from effvim.export import onnx_file, parity
from effvim.export.settings import SMALLEST, ExportSettings
from effvim.images import read_image
from effvim.inference.exported_model import EffViMExportedModel

SHOWN = 5  # differences
SHRINK = (1.0, 0.83, 0.61, 0.47)  # in turn, of the images for a file of any size


class ExportRejected(Exception):
    """The exported file differs from PyTorch, or lost too much in integers; it was not written."""


class Comparison:
    """Compares the results of a model with those of files that are made from it, and prints how.

    Args:
        model: of mmdet or mmseg, as it was trained.
        paths: images to compare on.
        kind: see `export.metadata`.
        cfg: of the model.
        settings: of the export.

    Raises:
        UserError: an image cannot be read.
    """

    def __init__(
        self, model: Any, paths: Sequence[str], kind: str, cfg: Config, settings: ExportSettings
    ) -> None:
        self.kind, self.cfg, self.settings = kind, cfg, settings
        self.images = [example_image(path, cfg, settings, i) for i, path in enumerate(paths)]
        self.expected = parity.predict(model, self.images, kind)

    def check_file(self, file: Path, half_size: bool = False) -> None:
        """Check a file in its runtime.

        Args:
            file: it may still have another name than the one that was asked for.
            half_size: whether its weights are rounded to half of their size.

        Raises:
            UserError: the runtime cannot run it.
            ExportRejected: it differs from the model.
        """
        what = 'with weights of half size, ' * half_size + 'compared with PyTorch'
        try:
            predicted = parity.predict(EffViMExportedModel(str(file)), self.images, self.kind)
        except UserError as error:  # of the runtime
            out = str(self.settings.out)
            raise UserError(str(error).replace(str(file), out)) from error
        except Exception as error:  # those of the runtimes have no type in common
            raise onnx_file.unsupported(self.cfg, error) from error
        self._accept(predicted, what, half_size)

    def check(self, model: Any, what: str, half_size: bool = False) -> None:
        """Check another model; `what` says in the output which one.

        Raises:
            ExportRejected: it differs from the model.
        """
        self._accept(parity.predict(model, self.images, self.kind), what, half_size)

    def _accept(self, predicted: list[Any], what: str, half_size: bool) -> None:
        slack = parity.HALF_SIZE if half_size else 1
        tolerated = parity.HALF_SIZE_FAULTS if half_size else 0.0
        settings = exported.settings(self.cfg)
        outcome = parity.compare(self.kind, self.expected, predicted, settings, slack)
        console.say('\n  '.join([f'{what} on {len(self.images)} images:', *outcome.lines]))
        if outcome.faults and tolerated:
            console.say(f'  {len(outcome.faults)} differences that are larger')
        if not outcome.is_tolerable(tolerated):
            out, checkpoint = self.settings.out, self.settings.checkpoint
            reason = f'{out} is not written, it would differ from {checkpoint}:'
            worst_first = reversed(outcome.faults)  # those of the whole come last
            raise ExportRejected('\n  '.join([reason, *itertools.islice(worst_first, SHOWN)]))


def smallest(make: Callable[[Path, bool], None], path: Path, sizes: Sequence[bool]) -> Path:
    """The file with weights of half size; where it is rejected, that with weights of full size.

    Args:
        make: writes and checks a file, with weights of half size or not.
        path: the file; each one is written into a directory of its own next to it.
        sizes: whether the weights are of half size, in the order in which files are made.

    Raises:
        ExportRejected: no file is accepted.
    """
    made: Path | None = None
    for half_size in sizes:
        file = path.parent / ('half_size' if half_size else 'full_size') / path.name
        file.parent.mkdir()
        try:
            make(file, half_size)
        except ExportRejected:
            if made is None:
                raise
            console.note('weights of half size change the results too much: they stay in full size')
        else:
            made = file
    assert made
    return made


def example_image(path: str, cfg: Config, settings: ExportSettings, number: int) -> Tensor:
    """An image, 3 H W, as OpenCV reads it, at a size to compare at.

    That of the file if it takes only one; else about the size of the test, by number.

    Raises:
        UserError: it cannot be read.
    """
    image = read_image(path)[..., ::-1]
    if settings.size:
        height, width = settings.size
    else:
        scales = [step.scale for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
        if scales:
            image = mmcv.imrescale(image, pair(scales[0]))
        shrink = SHRINK[number % len(SHRINK)]
        height, width = (max(SMALLEST, round(side * shrink)) for side in image.shape[:2])
    if settings.normalised:  # boxes end where the file's image does, padding included
        divisor = exported.preparation(cfg.model.data_preprocessor)['divisor']
        height, width = (side + -side % divisor for side in (height, width))
    image = mmcv.imresize(image, (width, height))
    if cfg.model.backbone.get('in_channels', 3) == 1:
        image = mmcv.bgr2gray(image, keepdim=True)
    return torch.from_numpy(image).permute(2, 0, 1)
