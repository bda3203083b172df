"""Loading transforms that name the image or label map that cannot be read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mmcv
import numpy as np

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.images import check_jpeg_end, decode


def check_while_loading(dataset: Any) -> None:
    """Wrap the loading transforms in the pipeline of `dataset` with the checks below."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    for i, transform in enumerate(transforms):
        if isinstance(transform, mmcv.transforms.LoadImageFromFile):
            transforms[i] = CheckedImageLoading(transform)
        elif hasattr(dataset, 'reduce_zero_label') and isinstance(
            transform, mmcv.transforms.LoadAnnotations
        ):
            transforms[i] = CheckedLabelMapLoading(transform, dataset)


def read_larger_images(dataset: Any, megapixels: float) -> None:
    """Let checked loading transforms in the pipeline of `dataset` read images of that size."""
    for transform in dataset.pipeline.transforms:
        if isinstance(transform, CheckedImageLoading):
            transform.max_megapixels = megapixels


class CheckedImageLoading:
    """A transform that loads an image; its error names the file, truncated ones included.

    Files of which OpenCV makes other pixels than inference sees, e.g. transparent ones, are read as
    inference reads them, see `effvim.images`.
    """

    def __init__(self, transform: mmcv.transforms.LoadImageFromFile) -> None:
        self.transform = transform
        self.max_megapixels = math.inf
        # a subclass, another place or other settings ask for other pixels
        self.replaceable = (
            type(transform) is mmcv.transforms.LoadImageFromFile
            and transform.color_type == 'color'
            and transform.imdecode_backend == 'cv2'
            and not (transform.backend_args or transform.file_client_args)
        )

    def load(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the image and set the keys that mmcv's transform sets."""
        image = decode(Path(results['img_path']).read_bytes(), self.max_megapixels)
        results['img'] = image.astype(np.float32) if self.transform.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        try:
            if self.replaceable:
                return self.load(results)
            loaded = self.transform(results)
            if (path := Path(results['img_path'])).suffix.lower() in ('.jpg', '.jpeg'):
                check_jpeg_end(path.read_bytes())
        except Exception as error:  # decoders raise whatever they like on foreign bytes
            raise UserError(
                f'image {results["img_path"]} cannot be read: {error}; repair or replace it, or '
                f'remove it from the dataset'
            ) from error
        return loaded


class CheckedLabelMapLoading:
    """A transform that loads a label map, which it checks as `ade.check_labels` does."""

    def __init__(self, transform: mmcv.transforms.LoadAnnotations, dataset: Any) -> None:
        self.transform = transform
        self.num_labels = len(dataset.METAINFO.get('classes') or dataset.metainfo['classes'])
        self.reduce_zero_label = dataset.reduce_zero_label

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        height, width = results['ori_shape'][:2]
        path = Path(results['seg_map_path'])
        ade.check_labels(path, (width, height), self.num_labels, self.reduce_zero_label)
        return self.transform(results)
