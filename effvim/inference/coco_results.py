"""Predictions in COCO's formats: results and run-length encoded masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from supervision import CompactMask

    from effvim.inference.prediction import Prediction


# COCO's 80 classes (torchvision has a list, too, and takes a second to load); the ids of its
# categories go to 90, with gaps.
CLASSES = (
    'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,'
    'stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,'
    'backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,'
    'baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,'
    'banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,'
    'potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,'
    'oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush'
)

GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def category_ids(classes: Sequence[str]) -> list[int]:
    """The category id of each class: COCO's own for COCO's 80 classes, 1, 2, 3 … for others."""
    if ','.join(classes) == CLASSES:
        return [number for number in range(1, 91) if number not in GAPS]
    return list(range(1, len(classes) + 1))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run-length encoding of a mask, H W, with `counts` as text for JSON."""
    import numpy as np
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {**code, 'counts': code['counts'].decode()}


def encode_masks(masks: np.ndarray | CompactMask) -> Iterator[dict[str, Any]]:
    """COCO's run-length encoding of each mask, N H W; of an image in tiles without its pixels."""
    import numpy as np

    if isinstance(masks, np.ndarray):
        yield from map(encode_mask, masks)
        return
    from pycocotools import mask as rle

    height, width = masks.image_shape
    for i in range(len(masks)):
        # runs go down the columns, those of a crop through the whole height of the image
        (x, y), crop = masks.offsets[i], masks.crop(i).T  # w h
        edges = np.diff(crop, axis=1, prepend=False, append=False).nonzero()
        ends, times = np.unique((x + edges[0]) * height + y + edges[1], return_counts=True)
        ends = ends[times == 1]  # a run that starts where another one ends continues it
        counts = np.diff(ends, prepend=0, append=height * width).tolist()
        if not counts[-1]:
            counts.pop()
        code = rle.frPyObjects({'size': [height, width], 'counts': counts}, height, width)
        yield {**code, 'counts': code['counts'].decode()}


def coco_results(
    prediction: Prediction, image_id: int, ids: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """COCO's results for one image: those of boxes and, from networks with masks, those of masks.

    Args:
        prediction: of a detector.
        image_id: COCO's id of the image.
        ids: the category id of each label, see `category_ids`.
    """
    boxes, masks = [], []
    codes = None if prediction.masks is None else encode_masks(prediction.masks)
    for i, (x1, y1, x2, y2) in enumerate(prediction.boxes.tolist()):
        common = {
            'image_id': image_id,
            'category_id': ids[prediction.labels[i]],
            'score': float(prediction.scores[i]),
        }
        boxes.append({**common, 'bbox': [x1, y1, x2 - x1, y2 - y1]})
        if codes:
            masks.append({**common, 'segmentation': next(codes)})
    return boxes, masks
