"""Predictions in the formats of other programs.

Coordinates are pixels of the upright image unless a function says otherwise. Objects are those of
the prediction; `prediction.above(0.5)` drops those that score lower. Masks become polygons of their
outer outlines, along the edges of pixels; holes are lost. Label maps count as one object of each
class that occurs, without a score.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from effvim.formats.outlines import mask_polygons
from effvim.inference import coco_results

if TYPE_CHECKING:
    import supervision as sv

    from effvim.inference.prediction import Prediction

LABELME_VERSION = '5.5.0'  # of the format


@dataclasses.dataclass
class Object:
    """One object.

    Attributes:
        name: of its class.
        label: of its class.
        box: x1, y1, x2, y2.
        score: 0 to 1; None for a region of a label map.
        polygons: outlines of its mask, each N 2; empty without a mask.
    """

    name: str
    label: int
    box: list[float]
    score: float | None
    polygons: list[np.ndarray]


def objects(prediction: Prediction) -> Iterator[Object]:
    """The objects of a prediction, one after the other."""
    if prediction.label_map is not None:
        for label in _present(prediction):
            mask = prediction.label_map == label
            yield Object(prediction.classes[label], label, _box(mask), None, mask_polygons(mask))
        return
    for i, box in enumerate(prediction.boxes.tolist()):
        label = int(prediction.labels[i])
        yield Object(
            prediction.classes[label],
            label,
            box,
            float(prediction.scores[i]),
            _polygons(prediction.masks, i),
        )


def to_supervision(prediction: Prediction) -> sv.Detections:
    """A `supervision.Detections`, with class names in its `data`."""
    import supervision as sv

    if prediction.label_map is None:
        labels = prediction.labels
        found: dict[str, Any] = dict(
            xyxy=prediction.boxes, confidence=prediction.scores, mask=prediction.masks
        )
    else:
        labels = np.array(_present(prediction), np.int64)
        masks = np.array([prediction.label_map == label for label in labels], bool)
        masks = masks.reshape(-1, *prediction.label_map.shape)
        boxes = np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4)
        found = dict(xyxy=boxes, mask=masks)
    names = np.array([prediction.classes[label] for label in labels], dtype=str)
    return sv.Detections(**found, class_id=labels, data={'class_name': names})


def to_coco(
    prediction: Prediction, image_id: int = 1, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """COCO's results: `image_id`, `category_id`, `bbox` x y width height, `score`, `segmentation`.

    Args:
        prediction: what to convert.
        image_id: COCO's id of the image.
        category_ids: COCO's id of each label (default: COCO's own for its 80 classes, else 1, 2 …).
    """
    ids = coco_results.category_ids(prediction.classes) if category_ids is None else category_ids
    if prediction.label_map is None:
        boxes, masks = coco_results.coco_results(prediction, image_id, ids)
        return [{**box, **mask} for box, mask in zip(boxes, masks or [{}] * len(boxes))]
    return [
        {
            'image_id': image_id,
            'category_id': ids[label],
            'segmentation': coco_results.encode_mask(prediction.label_map == label),
        }
        for label in _present(prediction)
    ]


def to_yolo(prediction: Prediction, with_scores: bool = False) -> str:
    """The content of a label file of YOLO: a line for each object, from 0 to 1.

    `label x y width height`, with the centre of the box, or with masks `label x1 y1 x2 y2 …`, a
    line for each part of an object. Boxes end where the image does.

    Args:
        prediction: what to convert.
        with_scores: append the score to each line, as Ultralytics does in its predictions.
    """
    height, width = prediction.image.shape[:2]
    lines = []
    for each in objects(prediction):
        if each.polygons:
            shapes = [(polygon / [width, height]).ravel() for polygon in each.polygons]
        else:
            x1, y1, x2, y2 = np.clip(each.box, 0, [width, height] * 2) / ([width, height] * 2)
            shapes = [np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])]
        score = f' {each.score:.6g}' if with_scores and each.score is not None else ''
        for shape in shapes:
            numbers = ' '.join(f'{value:.6f}' for value in shape)
            lines.append(f'{each.label} {numbers}{score}\n')
    return ''.join(lines)


def to_labelme(prediction: Prediction, image_path: str) -> dict[str, Any]:
    """The content of a file of Labelme: rectangles, or polygons.

    Args:
        prediction: what to convert.
        image_path: of the image, relative to the file.
    """
    height, width = prediction.image.shape[:2]
    shapes = []
    for group, each in enumerate(objects(prediction), 1):
        x1, y1, x2, y2 = each.box
        outlines = [polygon.tolist() for polygon in each.polygons]
        for points in outlines or [[[x1, y1], [x2, y2]]]:
            shapes.append(
                {
                    'label': each.name,
                    'points': points,
                    'group_id': group if len(outlines) > 1 else None,
                    'description': '' if each.score is None else f'score {each.score:.4f}',
                    'shape_type': 'polygon' if outlines else 'rectangle',
                    'flags': {},
                }
            )
    return {
        'version': LABELME_VERSION,
        'flags': {},
        'shapes': shapes,
        'imagePath': image_path,
        'imageData': None,
        'imageHeight': height,
        'imageWidth': width,
    }


def to_geojson(prediction: Prediction) -> dict[str, Any]:
    """A `FeatureCollection` of polygons with `name` and `score`, as QuPath and GIS programs read.

    x goes to the right and y down, in pixels.
    """
    features = []
    for each in objects(prediction):
        x1, y1, x2, y2 = each.box
        corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
        rings = [polygon.tolist() for polygon in each.polygons] or [corners]
        closed = [[[*ring, ring[0]]] for ring in rings]
        geometry = (
            {'type': 'Polygon', 'coordinates': closed[0]}
            if len(closed) == 1
            else {'type': 'MultiPolygon', 'coordinates': closed}
        )
        properties = {
            'name': each.name,
            'score': each.score,
            'classification': {'name': each.name},
        }
        features.append({'type': 'Feature', 'geometry': geometry, 'properties': properties})
    return {'type': 'FeatureCollection', 'features': features}


def to_label_studio(
    prediction: Prediction, image_url: str, model_version: str = 'effvim'
) -> dict[str, Any]:
    """A task of Label Studio with a prediction to start from; a list of such is what it imports.

    The labelling interface must have `RectangleLabels`, or `PolygonLabels` for masks, of the name
    `label` for an image of the name `image`.

    Args:
        prediction: what to convert.
        image_url: of the image, as Label Studio reaches it.
        model_version: the name of the prediction there.
    """
    height, width = prediction.image.shape[:2]
    percent = 100 / np.array([width, height])
    results: list[dict[str, Any]] = []
    for each in objects(prediction):
        x1, y1, x2, y2 = np.clip(np.array(each.box) * np.tile(percent, 2), 0, 100)
        values: list[tuple[str, dict[str, Any]]] = [
            ('polygonlabels', {'points': (polygon * percent).tolist()}) for polygon in each.polygons
        ]
        values = values or [
            ('rectanglelabels', dict(x=x1, y=y1, width=x2 - x1, height=y2 - y1, rotation=0))
        ]
        for kind, value in values:
            results.append(
                {
                    'id': f'effvim{len(results) + 1}',
                    'type': kind,
                    'from_name': 'label',
                    'to_name': 'image',
                    'original_width': width,
                    'original_height': height,
                    'image_rotation': 0,
                    'value': {**value, kind: [each.name]},
                    **({} if each.score is None else {'score': each.score}),
                }
            )
    scores = [result['score'] for result in results if 'score' in result]
    return {
        'data': {'image': image_url},
        'predictions': [
            {
                'model_version': model_version,
                'score': float(np.mean(scores)) if scores else 0.0,
                'result': results,
            }
        ],
    }


def to_cvat(predictions: Sequence[tuple[str, Prediction]]) -> bytes:
    """The XML file `CVAT for images 1.1` with the predictions for several images.

    Args:
        predictions: the image's name, as the task in CVAT has it, and its prediction.
    """
    root = ElementTree.Element('annotations')
    ElementTree.SubElement(root, 'version').text = '1.1'
    for number, (name, prediction) in enumerate(predictions):
        height, width = prediction.image.shape[:2]
        image = ElementTree.SubElement(
            root, 'image', id=str(number), name=name, width=str(width), height=str(height)
        )
        for each in objects(prediction):
            common = dict(label=each.name, source='auto', occluded='0', z_order='0')
            for polygon in each.polygons:
                points = ';'.join(f'{x:.2f},{y:.2f}' for x, y in polygon)
                ElementTree.SubElement(image, 'polygon', common, points=points)
            if not each.polygons:
                corners = dict(zip(('xtl', 'ytl', 'xbr', 'ybr'), (f'{v:.2f}' for v in each.box)))
                ElementTree.SubElement(image, 'box', common, **corners)
    ElementTree.indent(root)
    return ElementTree.tostring(root, 'utf-8', xml_declaration=True)


def save_crops(prediction: Prediction, folder: Path, name: str) -> list[Path]:
    """Save the image of each object as `folder/CLASS/NAME_NUMBER.png`; returns the paths.

    Args:
        prediction: what to convert.
        folder: the output directory.
        name: the first part of the files' names.
    """
    import io

    from PIL import Image

    from effvim.files import write_atomic

    height, width = prediction.image.shape[:2]
    paths = []
    for number, each in enumerate(objects(prediction), 1):
        x1, y1 = (max(0, int(np.floor(v))) for v in each.box[:2])
        x2, y2 = (min(side, int(np.ceil(v))) for v, side in zip(each.box[2:], (width, height)))
        if x2 <= x1 or y2 <= y1:
            continue
        buffer = io.BytesIO()
        Image.fromarray(prediction.image[y1:y2, x1:x2]).save(buffer, 'PNG')
        directory = re.sub(r'[<>:"/\\|?*]', '_', each.name).lstrip('.') or '_'
        paths.append(folder / directory / f'{name}_{number}.png')
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def _present(prediction: Prediction) -> list[int]:
    """Labels of the classes that occur in a label map."""
    assert prediction.label_map is not None
    counts = np.bincount(prediction.label_map.ravel(), minlength=len(prediction.classes))
    return [int(label) for label in np.flatnonzero(counts[: len(prediction.classes)])]


def _box(mask: np.ndarray) -> list[float]:
    """The box around a mask, x1 y1 x2 y2."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return [float(value) for value in corners]


def _polygons(masks: Any, index: int) -> list[np.ndarray]:
    """Outlines of a mask, of which no more is decoded than its box."""
    if masks is None:
        return []
    if not isinstance(masks, np.ndarray):  # run-lengths, of an image in tiles
        return [polygon + masks.offsets[index] for polygon in mask_polygons(masks.crop(index))]
    if not masks[index].any():
        return []
    x1, y1, x2, y2 = map(int, _box(masks[index]))
    return [polygon + np.array([x1, y1]) for polygon in mask_polygons(masks[index][y1:y2, x1:x2])]
