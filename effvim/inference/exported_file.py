"""Exported files: from the pixels of an image to objects or a label map, without torch.

Only masks of objects import it, see `object_masks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import UserError
from effvim.checkpoints.exported import description, detector_setting
from effvim.config.runtime import RuntimeChoices
from effvim.inference.network_output import NetworkOutput
from effvim.inference.runtimes import Outputs, Runtime, open_runtime
from effvim.inference.selection import select


class Placement(NamedTuple):
    """Where an image is in the network's input.

    Attributes:
        shape: height and width of the input, before it is padded to what a file accepts.
        scale: of the input, x and y, relative to the original image.
        original: height and width of the original image.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]
    original: tuple[int, int]


class ExportedFile:
    """A file in its runtime. Each image is a batch of its own.

    An image that is smaller than the fixed size of the file is padded at the right and the bottom.

    Args:
        runtime: that runs it.
        about: its metadata, see `effvim.checkpoints.exported.description`.
    """

    def __init__(self, runtime: Runtime, about: Mapping[str, Any]) -> None:
        self.runtime, self.about = runtime, about

    @classmethod
    def open(cls, path: str, choices: RuntimeChoices) -> ExportedFile:
        """Open a file.

        Raises:
            UserError: as `open_runtime` and `description`.
        """
        return cls(open_runtime(path, choices), description(path))

    def start(self, image: np.ndarray) -> Any:
        """Begin to compute one image; returns what `finish` takes.

        Shape: 3 H W, 0 to 255 as OpenCV reads it.

        Raises:
            UserError: the image does not fit, or the runtime cannot compute it.
        """
        x, size = image, self.about['size']
        if self.about['input'] == 'normalised':
            x = normalised(x, **self.about['settings']['model.data_preprocessor'])
        if size and list(x.shape[1:]) != size:
            x = self._padded(x, size)
        if self.about['input'] == 'rgb':
            x = x[::-1].astype(np.float32)
        return self.runtime.start(np.ascontiguousarray(x[None]))

    def finish(self, job: Any) -> Outputs:
        """All outputs of an image by name, without the axis of the batch."""
        outputs = completed(self.runtime.finish(job), self.about.get('selection'))
        return {name: value[0] for name, value in outputs.items()}

    def _padded(self, x: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Pad an image to a fixed size, with what the network sees as 0.

        Raises:
            UserError: the image is larger.
        """
        (height, width), (full_height, full_width) = x.shape[1:], size
        if height > full_height or width > full_width:
            side = -(-max(height, width) // 32) * 32
            raise UserError(
                f'an image of {height} × {width} pixels, as the config resizes it, does not fit '
                f"into the file's {full_height} × {full_width}: export with a --size that images "
                f'of both orientations fit into, e.g. --size {side} {side}, or to *.onnx or *.xml '
                f'without --size'
            )
        given = self.about['settings']['model.data_preprocessor']
        mean = given['mean'][::-1] if given['reverse'] else given['mean']
        fill = np.rint(np.array(mean, np.float32)) if x.dtype == np.uint8 else np.zeros(len(mean))
        canvas = np.empty((len(mean), *size), x.dtype)
        canvas[:] = fill.astype(x.dtype)[:, None, None]
        canvas[:, :height, :width] = x
        return canvas


def normalised(
    image: np.ndarray, mean: Sequence[float], std: Sequence[float], reverse: bool, divisor: int
) -> np.ndarray:
    """Normalise an image and pad it with 0; as `preprocessing.Prepare`. Shape: 3 H W → 3 H' W'."""
    x = (image[::-1] if reverse else image).astype(np.float32)
    mean_, std_ = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    x = (x - mean_) / std_
    return np.pad(x, [(0, 0), *((0, -side % divisor) for side in x.shape[1:])])


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


def in_original(
    outputs: Mapping[str, np.ndarray], place: Placement, settings: Mapping[str, Any]
) -> NetworkOutput:
    """The outputs of a file for an image in pixels of the original, as mmdet and mmseg give them.

    Args:
        outputs: see `ExportedFile.finish`.
        place: of the image.
        settings: of the file's metadata.
    """
    if 'label_map' in outputs:
        height, width = place.shape
        labels = outputs['label_map'][:height, :width]
        return NetworkOutput(label_map=resized_labels(labels, place.original))
    count = int(outputs['count'])
    boxes = outputs['boxes'][:count]
    if settings['model.type'] != 'YOLOX':  # whose boxes may leave the image
        boxes = np.minimum(boxes, np.array(place.shape[::-1] * 2, np.float32))  # not in the padding
    result = NetworkOutput(
        boxes / np.array(place.scale * 2, np.float32),
        outputs['scores'][:count],
        outputs['labels'][:count],
    )
    if {'masks', 'mask_logits'} & outputs.keys():
        result.masks = _masks(outputs, result, place, settings)
    return result


def resized_labels(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize a label map, each pixel taking the nearest label. Shape: h w → H W, int64."""
    rows, columns = (
        # in the precision of PyTorch, whose 'nearest-exact' it is
        np.floor(np.float32((np.arange(new) + 0.5) * (np.float32(old) / np.float32(new))))
        .astype(int)
        .clip(max=old - 1)
        for new, old in zip(size, labels.shape)
    )
    return labels[rows][:, columns].astype(np.int64)


def _masks(
    outputs: Mapping[str, np.ndarray],
    objects: NetworkOutput,
    place: Placement,
    settings: Mapping[str, Any],
) -> np.ndarray:
    """The masks of objects in the original image. Shape: K H W, bool."""
    import torch

    from effvim.inference.object_masks import enlarge, paste

    count = len(objects.boxes)
    threshold = detector_setting(settings, 'mask_thr_binary')
    if 'masks' in outputs:
        masks, boxes = (torch.from_numpy(x) for x in (outputs['masks'][:count], objects.boxes))
        return paste(masks, boxes, place.original, threshold).numpy()
    logits = torch.from_numpy(outputs['mask_logits'][:count])
    stride = settings['model.bbox_head.anchor_generator.strides'][0]
    return enlarge(logits, stride, place.scale, place.original, threshold).numpy()
