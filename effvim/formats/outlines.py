"""Outlines of objects: masks as polygons, and several polygons as one."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from effvim.datasets.coco import encode_mask


def as_one_polygon(segmentation: Any, width: int, height: int) -> list[float]:
    """One polygon x1, y1, x2, y2, … of a segmentation; empty if there is none.

    Several polygons are joined by lines that go there and back, which enclose nothing. Of a mask it
    is the outline of its pixels, without holes.

    Args:
        segmentation: as COCO writes it.
        width: of the image.
        height: of the image.
    """
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        polygons = mask_polygons(rle.decode(encode_mask(segmentation, width, height)))
    else:
        polygons = [np.reshape(polygon, (-1, 2)) for polygon in segmentation]
    if not polygons:
        return []
    joined = polygons[0]
    for polygon in polygons[1:]:
        joined = _join(joined, polygon)
    return [float(value) for value in joined.ravel()]


def mask_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """The outer outlines of a mask H W, each N 2, along the edges of its pixels."""
    # twice as large: the outline of OpenCV runs through the centres of pixels
    enlarged = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [_edge(contour[:, 0]) for contour in contours if len(contour) >= 3]


def _edge(contour: np.ndarray) -> np.ndarray:
    """A contour in the pixels of a mask of twice the size, moved to the edges of the pixels."""
    # an odd place is the last half of a pixel, whose edge is half a place behind it
    return (contour + (contour % 2)) / 2


def _join(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two polygons as one, by a line between their nearest points."""
    distances = ((one[:, None] - other[None]) ** 2).sum(-1)
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    turned = np.roll(other, -int(j), axis=0)
    return np.concatenate([one[: i + 1], turned, turned[:1], one[i:]])
