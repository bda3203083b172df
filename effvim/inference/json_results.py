"""A prediction as JSON, with names of classes instead of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effvim.inference.coco_results import encode_mask, encode_masks

if TYPE_CHECKING:
    from effvim.inference.prediction import Prediction


def objects_as_json(prediction: Prediction) -> list[dict[str, Any]]:
    """The objects: class, score, box as x y width height, mask as COCO's RLE, identity or None."""
    found: list[dict[str, Any]] = [
        {'class': prediction.classes[label], 'score': score, 'bbox': [x1, y1, x2 - x1, y2 - y1]}
        for label, score, (x1, y1, x2, y2) in zip(
            prediction.labels, prediction.scores.tolist(), prediction.boxes.tolist()
        )
    ]
    if prediction.masks is not None:
        for one, code in zip(found, encode_masks(prediction.masks)):
            one['segmentation'] = code
    if prediction.track_ids is not None:
        for one, number in zip(found, prediction.track_ids.tolist()):
            one['track_id'] = number if number >= 0 else None
    return found


def regions_as_json(prediction: Prediction) -> list[dict[str, Any]]:
    """The classes of a label map, largest first: class, number of pixels, and their RLE."""
    import numpy as np

    assert prediction.label_map is not None
    counts = np.bincount(prediction.label_map.ravel())
    return [
        {
            'class': prediction.classes[label],
            'pixels': int(counts[label]),
            'segmentation': encode_mask(prediction.label_map == label),
        }
        for label in np.argsort(-counts, kind='stable')
        if counts[label]
    ]
