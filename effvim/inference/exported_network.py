"""The network of an exported file that needs no config; starts without torch and OpenMMLab."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from effvim import start_up
from effvim.checkpoints import exported
from effvim.checkpoints.exported import detector_setting, nms_iou
from effvim.config.runtime import RuntimeChoices
from effvim.console import quiet
from effvim.inference.exported_file import ExportedFile, Placement, in_original
from effvim.inference.network_output import NetworkOutput
from effvim.inference.runtimes import open_runtime


class Sample(NamedTuple):
    """An image as the file takes it, 3 H W, uint8, BGR, and where the original is in it."""

    image: np.ndarray
    place: Placement


class ExportedNetwork:
    """The network behind a `Predictor`: an exported file that says how its images are prepared.

    Args:
        file: the file in its runtime.

    Attributes:
        name, segments, classes, nms_iou, in_flight: as of `network.Network`.
    """

    def __init__(self, file: ExportedFile) -> None:
        about = file.about
        self.file, self.rules, self.size = file, about['resize'], about['size']
        self.name = Path(about['effvim']['config']).stem
        self.segments = about['segments']
        self.classes = tuple(about['classes'])
        self.nms_iou = nms_iou(about['settings'])
        self.in_flight = file.runtime.in_flight

    @classmethod
    def open(cls, path: str, choices: RuntimeChoices) -> ExportedNetwork | None:
        """Open a file; None if only its config can prepare images for it.

        Raises:
            UserError: the file is absent or damaged, or its runtime cannot run it.
        """
        about = exported.content(path)['export']
        if 'segments' not in about or not about.get('resize') or not about['classes']:
            return None
        with quiet():
            network = cls(ExportedFile(open_runtime(path, choices), about))
            if detector_setting(about['settings'], 'mask_thr_binary') is not None:
                importlib.import_module('effvim.inference.object_masks')  # now, not at first use
        start_up.collect_as_usual()
        return network

    def accepts(self, height: int, width: int) -> bool:
        """As `network.Network.accepts`."""
        return min(resized_size(width, height, self.rules, self.size)) >= 1

    def preprocess(self, image: np.ndarray) -> tuple[Hashable, Sample]:
        """As `network.Network.preprocess`."""
        prepared, place = prepare_image(image, self.rules, self.size)
        return (prepared.shape, image.shape), Sample(prepared, place)

    def start(self, samples: Sequence[Sample]) -> Callable[[], Sequence[NetworkOutput]]:
        """As `network.Network.start`."""
        jobs = [self.file.start(sample.image) for sample in samples]
        return lambda: [self._output(*one) for one in zip(jobs, samples)]

    def _output(self, job: Any, sample: Sample) -> NetworkOutput:
        return in_original(self.file.finish(job), sample.place, self.file.about['settings'])


def resized_size(
    width: int, height: int, rules: Mapping[str, Any], size: Sequence[int] | None = None
) -> tuple[int, int]:
    """Width and height of an image at the scale of the rules, as mmcv computes them.

    An image that would not fit into the file is made smaller, e.g. a portrait where the file's
    images are wider than high.

    Args:
        width: of the image.
        height: of the image.
        rules: `resize` of the file's metadata, see `export.metadata.resize_rules`.
        size: height and width of the file's images; None for any.
    """
    scale, factor = rules['scale'], 1.0
    if scale and not rules['keep_ratio']:
        return scale[0], scale[1]
    if scale:
        factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    if size:
        multiple = rules['multiple'] or 1
        room = (side // multiple * multiple for side in size)
        factor = min(factor, *(most / side for most, side in zip(room, (height, width))))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def prepare_image(
    image: np.ndarray, rules: Mapping[str, Any], file_size: Sequence[int] | None = None
) -> tuple[np.ndarray, Placement]:
    """Resize and pad an image as the test pipeline does that the rules describe.

    Args:
        image: H W 3, uint8, RGB.
        rules: see `resized_size`.
        file_size: `size` there.

    Returns:
        The network's input, 3 H' W', uint8, BGR, and where the image is in it.
    """
    height, width = image.shape[:2]
    size = resized_size(width, height, rules, file_size)
    x = cv2.resize(np.ascontiguousarray(image), size)
    scale = size[0] / width, size[1] / height
    if multiple := rules['multiple']:  # a second time, as mmseg does
        x = cv2.resize(x, [-(-side // multiple) * multiple for side in size])
    if rules['pad']:
        below, right = (
            max(full - side, 0) for full, side in zip(rules['pad']['size'][::-1], x.shape)
        )
        value = [rules['pad']['value']] * 3
        x = cv2.copyMakeBorder(x, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)
    place = Placement((x.shape[0], x.shape[1]), scale, (height, width))
    return np.ascontiguousarray(x.transpose(2, 0, 1)[::-1]), place  # from RGB
