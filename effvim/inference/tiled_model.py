"""Evaluate a model on images in tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData

from effvim.config.tiling import Tiling
from effvim.inference.coco_results import encode_masks
from effvim.inference.network_output import NetworkOutput
from effvim.inference.tiles import Assembly, Grid, Part, nms_threshold


@MODELS.register_module()
class EffViMTiledModel(BaseModel):
    """A model with the `test_step` of mmdet's and mmseg's that sees each image in tiles.

    It takes images that no transform has resized, and returns predictions for whole images, with
    masks as COCO's run-length encodings.

    Args:
        module: config of the model.
        pipeline: the transforms that a tile goes through, from an array on.
        tile: see `Tiling`.
        overlap: see `Tiling`.
        classes: number of classes.
        segments: whether the model gives label maps.
    """

    def __init__(
        self,
        module: Mapping[str, Any],
        pipeline: Sequence[Mapping[str, Any]],
        tile: int,
        overlap: float,
        classes: int,
        segments: bool,
    ) -> None:
        super().__init__()
        self.module = MODELS.build(module)
        self.pipeline = Compose(pipeline)
        self.tiling = Tiling(tile, overlap)
        self.classes, self.segments = classes, segments
        self.nms_iou = nms_threshold(module)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Put predictions into each of the data samples. Shape: each image 3 H W, BGR."""
        for image, sample in zip(inputs, data_samples):
            self.predict(image.permute(1, 2, 0).numpy(), sample)
        return data_samples

    def test_step(self, data: Any) -> Any:
        """As in mmdet's and mmseg's models."""
        return self(**data)

    @torch.no_grad()
    def predict(self, image: np.ndarray, sample: Any) -> None:
        """Predict an image, H W 3, BGR, into its data sample."""
        grid = Grid.of(self.tiling, *image.shape[:2])
        assembly = Assembly(grid, self.classes, self.segments, self.nms_iou)
        for window in grid:
            tile = self.pipeline(dict(img=np.ascontiguousarray(window.cut_from(image)), img_id=0))
            batch = {'inputs': [tile['inputs']], 'data_samples': [tile['data_samples']]}
            assembly.add(Part.of(NetworkOutput.of(self.module.test_step(batch)[0])))
        if assembly.blender:
            labels = torch.from_numpy(assembly.blender.labels.astype(np.int64))
            sample.pred_sem_seg = PixelData(data=labels[None])
            return
        boxes, scores, labels_, masks = assembly.instances()
        sample.pred_instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(scores),
            labels=torch.from_numpy(labels_),
        )
        if masks is not None:
            sample.pred_instances.masks = list(encode_masks(masks))
