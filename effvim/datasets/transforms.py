"""Loading transforms that name the image or label map that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmcv
import numpy as np

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.images import check_jpeg_end, opencv_agrees, read_image


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


class CheckedImageLoading:
    """A transform that loads an image; its error names the file, truncated ones included.

    Files of which OpenCV makes other pixels than inference sees, e.g. transparent ones, are read as
    inference reads them, see `effvim.images`.
    """

    def __init__(self, transform: mmcv.transforms.LoadImageFromFile) -> None:
        self.transform = transform
        # other settings ask for other pixels
        self.replaceable = transform.color_type == 'color' and transform.imdecode_backend == 'cv2'

    def load(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load the image with `read_image`; sets the keys that mmcv's transform sets."""
        image = np.ascontiguousarray(read_image(results['img_path'])[..., ::-1])
        results['img'] = image.astype(np.float32) if self.transform.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        path = Path(results['img_path'])
        try:
            if self.replaceable and not opencv_agrees(path):
                return self.load(results)
            loaded = self.transform(results)
            check_jpeg_end(path)
        except Exception as error:  # decoders raise whatever they like on foreign bytes
            raise UserError(
                f'image {path} cannot be read: {error}; repair or replace it, or remove it '
                f'from the dataset'
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
