"""Run an exported file in place of the model that it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from backbone.errors import UserError
from effvim.checkpoints.exported import description, detector_setting
from effvim.config.runtime import RuntimeChoices
from effvim.inference.preprocessing import Prepare
from effvim.inference.runtimes import Outputs, Runtime, open_runtime
from effvim.inference.selection import select


@MODELS.register_module()
class EffViMExportedModel(BaseModel):
    """An exported file with the `test_step` of mmdet's and mmseg's models.

    Each image is a batch of its own. One that is smaller than the fixed size of the file is padded
    at the right and the bottom.

    Args:
        source: the file's path.
        choices: how to run it, see `RuntimeChoices`.

    Attributes:
        about: the file's metadata, see `effvim.checkpoints.exported.description`.
        in_flight: how many images are worth computing at the same time.
    """

    def __init__(self, source: str, **choices: Any) -> None:
        super().__init__(BaseDataPreprocessor())  # as a config it would load mmdet's models
        self.runtime = open_runtime(source, RuntimeChoices(**choices))
        self.in_flight = self.runtime.in_flight
        self.about = description(source)

    @classmethod
    def around(cls, runtime: Runtime, about: Mapping[str, Any]) -> EffViMExportedModel:
        """A model that runs in a given runtime, with the metadata that a file would have."""
        model = cls.__new__(cls)
        BaseModel.__init__(model, BaseDataPreprocessor())
        model.runtime, model.in_flight, model.about = runtime, runtime.in_flight, dict(about)
        return model

    def start(self, image: Tensor) -> Any:
        """Begin to compute one image; returns what `finish` takes.

        Shape: 3 H W, 0 to 255 as OpenCV reads it.
        """
        x, size = image[None], self.about['size']
        if self.about['input'] == 'normalised':
            x = Prepare(**self.about['settings']['model.data_preprocessor'])(x)
        if size and list(x.shape[2:]) != size:
            x = self.pad(x, size)
        if self.about['input'] == 'rgb':
            x = x.flip(1).float()
        return self.runtime.start(np.ascontiguousarray(x.numpy()))

    def finish(self, job: Any) -> dict[str, Tensor]:
        """All outputs of an image by name, without the axis of the batch."""
        outputs = completed(self.runtime.finish(job), self.about.get('selection'))
        return {name: torch.from_numpy(value)[0] for name, value in outputs.items()}

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """Compute one image, see `start` and `finish`."""
        return self.finish(self.start(image))

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
        jobs = [self.start(image) for image in inputs]
        return self.collect(jobs, data_samples)

    def collect(self, jobs: Sequence[Any], data_samples: Sequence[Any]) -> Any:
        """Finish what was started, and put it into the data samples; see `forward`."""
        for job, sample in zip(jobs, data_samples):
            outputs = self.finish(job)
            if 'label_map' in outputs:
                sample.pred_sem_seg = PixelData(data=label_map(outputs['label_map'], sample))
            else:
                sample.pred_instances = instances(outputs, sample, self.about['settings'])
        return data_samples

    def test_step(self, data: Any) -> Any:
        """As in mmdet's and mmseg's models."""
        return self(**data)


def completed(outputs: Outputs, rules: Mapping[str, Any] | None) -> Outputs:
    """The outputs of a file with the last step, where its runtime does not take it.

    Args:
        outputs: by name, each 1 …
        rules: `selection` of the file's metadata; None if it has detections, or none at all.
    """
    if 'logits' in outputs:
        return {'label_map': outputs['logits'].argmax(1)}
    if not rules:
        return outputs
    qualities = outputs.get('qualities', np.ones((1, 1, 1), np.float32))
    boxes, scores, labels = select(outputs['boxes'][0], outputs['scores'][0], qualities[0], rules)
    return {
        'boxes': boxes[None],
        'scores': scores[None],
        'labels': labels[None],
        'count': np.array([len(boxes)]),
    }


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
    boxes = outputs['boxes'][:count]
    if settings['model.type'] != 'YOLOX':  # whose boxes may leave the image
        boxes = boxes.minimum(torch.tensor([width, height] * 2))  # not in the padding
    result = InstanceData(
        bboxes=boxes / scale, scores=outputs['scores'][:count], labels=outputs['labels'][:count]
    )
    threshold = detector_setting(settings, 'mask_thr_binary')
    if 'masks' in outputs:
        result.masks = paste(
            outputs['masks'][:count], result.bboxes, sample.ori_shape[:2], threshold
        )
    if 'mask_logits' in outputs:
        result.masks = enlarge(
            outputs['mask_logits'][:count],
            settings['model.bbox_head.anchor_generator.strides'][0],
            sample.get('scale_factor', (1, 1)),
            sample.ori_shape[:2],
            threshold,
        )
    return result


def enlarge(
    logits: Tensor, stride: int, scale: Sequence[float], size: Sequence[int], threshold: float
) -> Tensor:
    """Resize logits of masks to the original image, as mmdet does. Shape: K h w → K H W, bool.

    Args:
        logits: of the masks in the network's input.
        stride: how many pixels of the input a logit stands for, along each axis.
        scale: of the input, x and y, relative to the original.
        size: height and width of the original.
        threshold: of the probability.
    """
    masks = torch.zeros(len(logits), *size, dtype=torch.bool)
    for mask, x in zip(masks, logits):  # one at a time: an original may be large
        x = F.interpolate(x[None, None], scale_factor=stride, mode='bilinear')
        full = [math.ceil(side * (1 / by)) for side, by in zip(x.shape[2:], reversed(scale))]
        x = F.interpolate(x, full, mode='bilinear')[0, 0, : size[0], : size[1]]
        mask[: x.shape[0], : x.shape[1]] = x.sigmoid() > threshold
    return masks


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """Put masks of boxes into whole images. Shape: masks K 28 28, boxes K 4 → K H W, bool."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i in range(len(masks)):  # one at a time, as mmdet does on a CPU
        patch, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], *size)
        pasted[(i, *place)] = patch[0] >= threshold
    return pasted
