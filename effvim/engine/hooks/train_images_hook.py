"""`EffViMTrainImagesHook`: an image of the first training images, as the network gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from effvim.visualization.training_images import draw_training_image, tile


@HOOKS.register_module()
class EffViMTrainImagesHook(Hook):
    """Saves the first training images with their ground truth, after augmentation, in one file.

    Args:
        path: the file; its directory exists.
        limit: number of images.
    """

    priority = 'VERY_HIGH'  # before anything changes the batch

    def __init__(self, path: str, limit: int = 8) -> None:
        self.path, self.limit = Path(path), limit
        self.active = False
        self.images: list[Image.Image] = []

    def before_train(self, runner: Any) -> None:
        """Leave the file of the first part of a resumed run as it is."""
        self.active = runner.rank == 0 and runner.iter == 0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Draw images of this batch, if there are not enough yet."""
        if not self.active:
            return
        inputs, samples = data_batch['inputs'], data_batch['data_samples']
        if isinstance(inputs, dict):  # several branches, as in semi-supervised training
            self.active = False
            return
        for image, sample in list(zip(inputs, samples))[: self.limit - len(self.images)]:
            self.images.append(draw_training_image(image.numpy(), sample, runner.spec.classes))
        if len(self.images) == self.limit:
            self._save()

    def after_train(self, runner: Any) -> None:
        """Save the images of a run that has seen fewer than `limit`."""
        if self.active and self.images:
            self._save()

    def _save(self) -> None:
        tile(self.images).save(self.path)
        self.active, self.images = False, []
