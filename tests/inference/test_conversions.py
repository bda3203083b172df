"""Predictions in the formats of other programs, read back by others and by plain NumPy."""

import dataclasses
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from effvim.inference.coco_results import category_ids
from effvim.inference.conversions import to_cvat
from effvim.inference.prediction import Prediction
from effvim.inference.tiles import compact

CLASSES = ('cat', 'dog', 'a/b')
HEIGHT, WIDTH = 60, 90
BOXES = np.array([[10, 5, 50, 45], [20, 8, 83.5, 59.25], [0, 0, 7, 9]], np.float32)


def prediction(kind='boxes'):
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    if kind == 'label_map':
        labels = np.zeros((HEIGHT, WIDTH), np.int64)
        labels[10:30, 20:50] = labels[40:, 60:] = 2
        return Prediction(image, CLASSES, label_map=labels)
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, BOXES.astype(int)):
        mask[y1:y2, x1:x2] = True
        mask[y1 : y1 + 3, x1 : x1 + 5] = False
    given = {'boxes': None, 'masks': masks, 'tiles': compact(masks)}[kind]
    labels = np.array([1, 0, 2])
    return Prediction(image, CLASSES, BOXES, np.array([0.9, 0.5, 0.25], np.float32), labels, given)


KINDS = ('boxes', 'masks', 'tiles', 'label_map')
INSTANCES = KINDS[:3]


def filled(polygons):
    """The pixels whose centres are inside polygons, each N 2. Shape: H W."""
    flat = [np.asarray(polygon, float).ravel().tolist() for polygon in polygons]
    return rle.decode(rle.merge(rle.frPyObjects(flat, HEIGHT, WIDTH))).astype(bool)


@pytest.mark.parametrize('kind', KINDS)
def test_supervision(kind):
    given = prediction(kind)
    found = given.to_supervision()
    if kind == 'label_map':
        assert found.class_id.tolist() == [0, 2] and found.confidence is None
        np.testing.assert_array_equal(found.mask[1], given.label_map == 2)
        assert found.xyxy.tolist() == [[0, 0, 90, 60], [20, 10, 90, 60]]
        return
    np.testing.assert_array_equal(found.xyxy, given.boxes)
    np.testing.assert_array_equal(found.confidence, given.scores)
    assert found.data['class_name'].tolist() == ['dog', 'cat', 'a/b']
    sv.BoxAnnotator().annotate(given.image.copy(), found)
    if kind != 'boxes':
        np.testing.assert_array_equal(np.asarray(found.mask), np.asarray(given.masks))


@pytest.mark.parametrize('kind', INSTANCES)
def test_coco(kind, tmp_path):
    given = prediction(kind)
    content = {
        'images': [{'id': 7, 'file_name': 'a.jpg', 'height': HEIGHT, 'width': WIDTH}],
        'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(CLASSES)],
        'annotations': [],
    }
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    results = COCO(path).loadRes(json.loads(json.dumps(given.to_coco(7))))
    found = list(results.anns.values())
    assert [a['category_id'] for a in found] == [2, 1, 3]
    assert [a['score'] for a in found] == given.scores.tolist()
    boxes = np.array([a['bbox'] for a in given.to_coco(7)])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_array_equal(boxes, given.boxes)
    if kind != 'boxes':
        masks = np.array([results.annToMask(a) for a in found], bool)
        np.testing.assert_array_equal(masks, np.asarray(given.masks))


def test_coco_of_a_label_map():
    given = prediction('label_map')
    background, third = given.to_coco(7, [5, 6, 8])
    assert (background['category_id'], third['category_id']) == (5, 8)
    np.testing.assert_array_equal(rle.decode(third['segmentation']), given.label_map == 2)


@pytest.mark.parametrize('kind', INSTANCES)
def test_yolo(kind, tmp_path):
    given = prediction(kind)
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels/a.txt').write_text(given.to_yolo())
    (tmp_path / 'data.yaml').write_text(f'names: {list(CLASSES)}\n')
    Image.fromarray(given.image).save(tmp_path / 'images/a.png')
    read = sv.DetectionDataset.from_yolo(
        str(tmp_path / 'images'), str(tmp_path / 'labels'), str(tmp_path / 'data.yaml')
    )
    ((_, _, found),) = list(read)
    assert found.class_id.tolist() == given.labels.tolist()
    if kind == 'boxes':
        np.testing.assert_allclose(found.xyxy, given.boxes, atol=1e-3)
    else:
        for mask, line in zip(np.asarray(given.masks), given.to_yolo().splitlines()):
            points = np.array(line.split()[1:], float).reshape(-1, 2) * [WIDTH, HEIGHT]
            np.testing.assert_array_equal(filled([points]), mask)


def test_scores_in_yolos_files():
    lines = prediction().to_yolo(with_scores=True).splitlines()
    assert [float(line.split()[5]) for line in lines] == [0.9, 0.5, 0.25]


@pytest.mark.parametrize('kind', KINDS)
def test_labelme(kind, tmp_path):
    given = prediction(kind)
    content = given.to_labelme('../images/a.png')
    assert (content['imageHeight'], content['imageWidth']) == (HEIGHT, WIDTH)
    shapes = content['shapes']
    if kind == 'boxes':
        (tmp_path / 'a.json').write_text(json.dumps({**content, 'imagePath': 'a.png'}))
        Image.fromarray(given.image).save(tmp_path / 'a.png')
        read = sv.DetectionDataset.from_labelme(str(tmp_path), str(tmp_path))
        ((_, _, found),) = list(read)
        np.testing.assert_allclose(found.xyxy, given.boxes)
        assert [read.classes[i] for i in found.class_id] == ['dog', 'cat', 'a/b']
    elif kind == 'label_map':
        third = [shape['points'] for shape in shapes if shape['label'] == 'a/b']
        assert len(third) == 2 and len({s['group_id'] for s in shapes if s['label'] == 'a/b'}) == 1
        np.testing.assert_array_equal(filled(third), given.label_map == 2)
    else:
        for shape, mask in zip(shapes, np.asarray(given.masks), strict=True):
            assert shape['shape_type'] == 'polygon'
            np.testing.assert_array_equal(filled([shape['points']]), mask)


@pytest.mark.parametrize('kind', KINDS)
def test_geojson(kind):
    given = prediction(kind)
    content = json.loads(json.dumps(given.to_geojson()))
    assert content['type'] == 'FeatureCollection'
    for i, feature in enumerate(content['features']):
        geometry = feature['geometry']
        several = geometry['type'] == 'MultiPolygon'
        polygons = geometry['coordinates'] if several else [geometry['coordinates']]
        assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)
        if kind in ('masks', 'tiles'):
            mask = np.asarray(given.masks)[i]
            np.testing.assert_array_equal(filled([p[0][:-1] for p in polygons]), mask)
        if kind != 'label_map':
            assert feature['properties']['score'] == pytest.approx(float(given.scores[i]))
        if kind == 'boxes':
            corners = np.array(polygons[0][0])
            assert [*corners.min(0), *corners.max(0)] == given.boxes[i].tolist()


@pytest.mark.parametrize('kind', INSTANCES)
def test_label_studio(kind):
    given = prediction(kind)
    task = json.loads(json.dumps(given.to_label_studio('/data/upload/a.png', 'm4')))
    assert task['data'] == {'image': '/data/upload/a.png'}
    (predicted,) = task['predictions']
    assert predicted['model_version'] == 'm4'
    assert predicted['score'] == pytest.approx(0.55)
    for i, result in enumerate(predicted['result']):
        value = result['value']
        assert value[result['type']] == [CLASSES[given.labels[i]]]
        assert (result['original_width'], result['original_height']) == (WIDTH, HEIGHT)
        if kind == 'boxes':
            size = np.array([WIDTH, HEIGHT]) / 100
            corner, extent = np.array([value['x'], value['y']]), [value['width'], value['height']]
            np.testing.assert_allclose(
                [*(corner * size), *((corner + extent) * size)], given.boxes[i], rtol=1e-5
            )
        else:
            points = np.array(value['points']) * [WIDTH / 100, HEIGHT / 100]
            np.testing.assert_array_equal(filled([points]), np.asarray(given.masks)[i])


@pytest.mark.parametrize('kind', KINDS)
def test_cvat(kind):
    given = prediction(kind)
    root = ElementTree.fromstring(to_cvat([('a & b.png', given), ('c.png', given)]))
    assert [image.get('name') for image in root.iter('image')] == ['a & b.png', 'c.png']
    image = next(root.iter('image'))
    if kind == 'boxes':
        boxes = [[float(b.get(k)) for k in ('xtl', 'ytl', 'xbr', 'ybr')] for b in image]
        np.testing.assert_allclose(boxes, given.boxes, atol=0.006)
    elif kind == 'label_map':
        assert [p.get('label') for p in image] == ['cat', 'a/b', 'a/b']
    else:
        for polygon, mask in zip(image, np.asarray(given.masks), strict=True):
            points = [p.split(',') for p in polygon.get('points').split(';')]
            np.testing.assert_array_equal(filled([np.array(points, float)]), mask)


def test_crops(tmp_path):
    given = prediction()
    paths = given.save_crops(tmp_path, 'photo')
    names = [str(path.relative_to(tmp_path)) for path in paths]
    assert names == ['dog/photo_1.png', 'cat/photo_2.png', 'a_b/photo_3.png']
    np.testing.assert_array_equal(np.array(Image.open(paths[0])), given.image[5:45, 10:50])
    np.testing.assert_array_equal(np.array(Image.open(paths[1])), given.image[8:60, 20:84])


def test_prints_itself():
    given = prediction()
    assert repr(given) == 'Prediction(3 objects: 1 dog, 1 cat, 1 a/b; 90 × 60)'
    text = str(given)
    for words in ('dog', '0.900', '83.5', 'x2'):
        assert words in text
    assert len(str(given.above(0.5)).splitlines()) == len(text.splitlines()) - 1
    assert '0 objects' in repr(given.above(1))
    assert 'a/b' in str(prediction('label_map')) and '22%' in repr(prediction('label_map'))
    odd = dataclasses.replace(prediction('label_map'), classes=('cat, big', 'dog', ':cat:'))
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in str(odd).splitlines()]
    assert ['cat, big', '78%'] in rows and [':cat:', '22%'] in rows


@pytest.mark.parametrize('kind', KINDS)
def test_notebooks_show_it(kind):
    with Image.open(io.BytesIO(prediction(kind)._repr_png_())) as image:
        assert image.width == WIDTH


@pytest.mark.parametrize('kind', INSTANCES)
def test_nothing_predicted(kind):
    none = prediction(kind).above(1)
    assert none.to_coco() == [] and none.to_yolo() == '' and len(none.to_supervision()) == 0
    assert none.to_geojson()['features'] == none.to_labelme('a')['shapes'] == []
    assert none.to_label_studio('a')['predictions'][0]['result'] == []


def test_boxes_end_where_the_image_does():
    """Labels beyond it are refused by what reads them; YOLOX's boxes may leave it."""
    given = prediction()
    given.boxes[0] = [-5, -3, WIDTH + 4, HEIGHT + 2]
    assert given.to_yolo().splitlines()[0].split()[1:] == [
        '0.500000',
        '0.500000',
        *['1.000000'] * 2,
    ]
    value = given.to_label_studio('a.png')['predictions'][0]['result'][0]['value']
    assert [value[key] for key in ('x', 'y', 'width', 'height')] == [0, 0, 100, 100]


def test_category_ids_of_coco():
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
    classes = [name for name in names[1:] if name != 'N/A']
    assert category_ids(classes) == [names.index(name) for name in classes]
    assert category_ids(classes[::-1]) == list(range(1, 81))
