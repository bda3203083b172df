"""TODO effvim.inference.coco_results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction


def category_ids(classes: Sequence[str]) -> list[int]:
    """COCO's own ids for COCO's 80 classes, 1, 2, 3 … for others."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    if list(classes) == [name for name in names[1:] if name != 'N/A']:
        return [names.index(name) for name in classes]
    return list(range(1, len(classes) + 1))


def coco_results(
    found: Prediction, image_id: int, ids: Sequence[int]
) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """COCO's results of one picture: for each object that of its box, and that of its mask."""
    import numpy as np
    from pycocotools import mask as rle

    entries = []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
        about = {
            'image_id': image_id,
            'category_id': ids[found.labels[i]],
            'score': float(found.scores[i]),
        }
        masked = None
        if found.masks is not None:
            code = rle.encode(np.asfortranarray(found.masks[i], np.uint8))
            masked = {**about, 'segmentation': {**code, 'counts': code['counts'].decode()}}
        entries.append(({**about, 'bbox': [x1, y1, x2 - x1, y2 - y1]}, masked))
    return entries
