"""Transforms that name the picture or the label map that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmcv

from backbone.errors import UserError
from effvim.datasets import ade
from effvim.images import check_jpeg_end


def check_while_loading(dataset: Any) -> None:
    """Put the transforms below around those that load, in the pipeline of `dataset`."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    for i, transform in enumerate(transforms):
        if isinstance(transform, mmcv.transforms.LoadImageFromFile):
            transforms[i] = CheckedImageLoading(transform)
        elif hasattr(dataset, 'reduce_zero_label') and isinstance(
            transform, mmcv.transforms.LoadAnnotations
        ):
            transforms[i] = CheckedLabelMapLoading(transform, dataset)


class CheckedImageLoading:
    """A loading transform whose failure names the picture, truncated ones included."""

    def __init__(self, transform: mmcv.transforms.LoadImageFromFile) -> None:
        self.transform = transform

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        path = Path(results['img_path'])
        try:
            loaded = self.transform(results)
            check_jpeg_end(path)
        except Exception as error:  # decoders raise what they like over foreign bytes
            raise UserError(
                f'image {path} cannot be read: {error}; mend or replace it, or take '
                f'it out of the data set'
            ) from error
        return loaded


class CheckedLabelMapLoading:
    """A loading transform of label maps, see `ade.check_labels`."""

    def __init__(self, transform: mmcv.transforms.LoadAnnotations, dataset: Any) -> None:
        self.transform = transform
        self.number = len(dataset.METAINFO.get('classes') or dataset.metainfo['classes'])
        self.reduced = dataset.reduce_zero_label

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        height, width = results['ori_shape'][:2]
        path = Path(results['seg_map_path'])
        ade.check_labels(path, (width, height), self.number, self.reduced)
        return self.transform(results)
