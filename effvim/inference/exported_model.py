"""Run an exported ONNX file in place of the model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from backbone.errors import UserError
from effvim.checkpoints.exported import description, open_session
from effvim.inference.preprocessing import Prepare


@MODELS.register_module()
class EffViMExportedModel(BaseModel):
    """An exported file with the `test_step` of mmdet's and mmseg's models.

    Images run one at a time. One that is smaller than the fixed size of the file is padded at the
    right and the bottom.

    Args:
        source: the file's path or content.

    Attributes:
        about: the file's metadata, see `effvim.checkpoints.exported.description`.
    """

    def __init__(self, source: str | bytes) -> None:
        super().__init__()
        name = source if isinstance(source, str) else 'the exported file'
        self.session = open_session(source, name)
        self.about = description(self.session, name)

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """All outputs by name for one image. Shape: 3 H W, 0 to 255 as OpenCV reads it."""
        x, size = image[None], self.about['size']
        if self.about['input'] == 'normalised':
            x = Prepare(**self.about['settings']['model.data_preprocessor'])(x)
        if size and list(x.shape[2:]) != size:
            x = self.pad(x, size)
        names = [output.name for output in self.session.get_outputs()]
        outputs = self.session.run(names, {'images': np.ascontiguousarray(x.numpy())})
        return {name: torch.from_numpy(value)[0] for name, value in zip(names, outputs)}

    def pad(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Pad an image to a fixed size, with what the network sees as 0.

        Raises:
            UserError: the image is larger.
        """
        (height, width), (full_height, full_width) = x.shape[2:], size
        if height > full_height or width > full_width:
            raise UserError(
                f'an image of {height} × {width} pixels, as the config resizes it, does not fit '
                f"into the file's {full_height} × {full_width}: set the scale of the Resize in "
                f'test_dataloader.dataset.pipeline, or export without --size'
            )
        given = self.about['settings']['model.data_preprocessor']
        mean = given['mean'][::-1] if given['reverse'] else given['mean']
        fill = torch.tensor(mean).round() if x.dtype == torch.uint8 else torch.zeros(len(mean))
        canvas = fill.to(x.dtype).view(1, -1, 1, 1).repeat(1, 1, *size)
        canvas[:, :, :height, :width] = x
        return canvas

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Put predictions into each of the data samples, in pixels of the original images."""
        for image, sample in zip(inputs, data_samples):
            outputs = self.run(image)
            if 'label_map' in outputs:
                sample.pred_sem_seg = PixelData(data=label_map(outputs['label_map'], sample))
            else:
                sample.pred_instances = instances(outputs, sample, self.about['settings'])
        return data_samples

    def test_step(self, data: Any) -> Any:
        """As in mmdet's and mmseg's models."""
        return self(**data)


def label_map(labels: Tensor, sample: Any) -> Tensor:
    """Resize labels to the original image, each pixel taking the nearest label.

    Shape: H W → 1 H' W'.
    """
    height, width = sample.img_shape[:2]
    labels = labels[None, None, :height, :width].float()
    return F.interpolate(labels, sample.ori_shape[:2], mode='nearest-exact')[0].long()


def instances(
    outputs: Mapping[str, Tensor], sample: Any, settings: Mapping[str, Any]
) -> InstanceData:
    """Boxes and masks in the original image, as mmdet's models return them."""
    count = int(outputs['count'])
    height, width = sample.img_shape[:2]
    scale = torch.tensor(sample.get('scale_factor', (1, 1))).repeat(2)  # x y x y
    boxes = outputs['boxes'][:count].minimum(
        torch.tensor([width, height] * 2)
    )  # not in the padding
    result = InstanceData(
        bboxes=boxes / scale, scores=outputs['scores'][:count], labels=outputs['labels'][:count]
    )
    if 'masks' in outputs:
        result.masks = paste(
            outputs['masks'][:count],
            result.bboxes,
            sample.ori_shape[:2],
            settings['model.test_cfg.rcnn.mask_thr_binary'],
        )
    return result


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """Put masks of boxes into whole images. Shape: masks K 28 28, boxes K 4 → K H W, bool."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i in range(len(masks)):  # one at a time, as mmdet does on a CPU
        patch, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], *size)
        pasted[(i, *place)] = patch[0] >= threshold
    return pasted
