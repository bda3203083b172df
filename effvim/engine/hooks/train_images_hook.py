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
        self.images: list[Image.Image] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Draw the images of this batch, if there are not enough yet."""
        if runner.rank or len(self.images) >= self.limit or runner.iter > self.limit:
            return  # a resumed run is past its first images
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples']):
            self.images.append(draw_training_image(image.numpy(), sample, runner.spec.classes))
        if len(self.images) >= self.limit:
            tile(self.images[: self.limit]).save(self.path)
