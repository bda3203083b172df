"""EffViMCocoMetric against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import mmdet_plugin  # noqa: F401
from backbone.errors import UserError
from effvim.datasets import scenes
from mmdet_plugin.metric import NAMES, EffViMCocoMetric


def detections(annotations, seed=0):
    """The ground truth, shifted and rescored, some with a wrong class, and random boxes."""
    rng = np.random.default_rng(seed)
    content = json.loads(annotations.read_text())
    detected = []
    for a in content['annotations']:
        box = np.array(a['bbox']) + rng.normal(0, 2, 4)
        label = a['category_id'] - 1 if rng.random() < 0.8 else int(rng.integers(3))
        detected.append((a['image_id'], box, label, rng.random()))
    for _ in range(60):
        image = content['images'][rng.integers(len(content['images']))]['id']
        detected.append(
            (
                image,
                np.r_[rng.uniform(0, 90, 2), rng.uniform(5, 60, 2)],
                int(rng.integers(3)),
                rng.random() / 2,
            )
        )
    return [i['id'] for i in content['images']], detected


def evaluate(annotations, images, detected, classes=scenes.CLASSES, **options):
    metric = EffViMCocoMetric(ann_file=str(annotations), metric='bbox', **options)
    metric.dataset_meta = dict(classes=classes)
    for image in images:
        mine = [f for f in detected if f[0] == image]
        boxes = torch.tensor(np.array([np.r_[b[:2], b[:2] + b[2:]] for _, b, _, _ in mine]))
        pred = dict(
            bboxes=boxes.reshape(-1, 4),
            labels=torch.tensor([f[2] for f in mine]).long(),
            scores=torch.tensor([f[3] for f in mine], dtype=torch.float64),
        )
        metric.process({}, [dict(pred_instances=pred, img_id=image, ori_shape=(160, 160))])
    return metric.evaluate(len(images))


def test_equals_pycocotools(annotations, tmp_path):
    images, detected = detections(annotations)
    numbers = evaluate(annotations, images, detected)
    assert list(numbers) == [f'coco/bbox_{name}' for name in NAMES]
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(annotations)
        given = api.loadRes(
            [
                dict(image_id=i, bbox=b.tolist(), category_id=label + 1, score=s)
                for i, b, label, s in detected
            ]
        )
        evaluation = COCOeval(api, given, 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # COCO's own limits are 1, 10, 100 detections; the first six and the areas use 100
    for name, expected in zip(NAMES[:6], evaluation.stats[:6]):
        assert abs(numbers[f'coco/bbox_{name}'] - expected) <= 1e-9, name
    assert abs(numbers['coco/bbox_AR@100'] - evaluation.stats[8]) <= 1e-9
    assert 0.2 < numbers['coco/bbox_mAP'] < 0.9


@pytest.mark.parametrize('reverse', [False, True])
def test_single_classes_equal_pycocotools(annotations, tmp_path, reverse):
    """COCO counts one class alone. Categories may stand in any order in the file."""
    images, detected = detections(annotations)
    content = json.loads(annotations.read_text())
    names = list(scenes.CLASSES)
    if reverse:
        content['categories'].reverse()
        names.reverse()
        detected = [(i, b, len(names) - 1 - label, s) for i, b, label, s in detected]
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    numbers = evaluate(path, images, detected, names, classwise=True)
    ids = {category['name']: category['id'] for category in content['categories']}
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(path)
        given = api.loadRes(
            [
                dict(image_id=i, bbox=b.tolist(), category_id=ids[names[label]], score=s)
                for i, b, label, s in detected
            ]
        )
        expected = {}
        for name in names:
            evaluation = COCOeval(api, given, 'bbox')
            evaluation.params.catIds = [ids[name]]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            expected[name] = evaluation.stats[0]
    assert len(set(expected.values())) == 3 and min(expected.values()) > 0.1
    for name, value in expected.items():
        assert abs(numbers[f'coco/bbox_{name}_precision'] - value) <= 1e-9
    absent = evaluate(path, images, [], names, classwise=True)
    assert absent[f'coco/bbox_{names[0]}_precision'] == 0


def test_no_detection_at_all_is_zero(annotations):
    images, _ = detections(annotations)
    numbers = evaluate(annotations, images, [])
    assert numbers['coco/bbox_mAP'] == numbers['coco/bbox_mAP_50'] == 0
    assert numbers['coco/bbox_mAP_l'] == -1  # no large object in the ground truth


def test_perfect_detections_are_one(annotations):
    content = json.loads(annotations.read_text())
    images = [i['id'] for i in content['images']]
    detected = [
        (a['image_id'], np.array(a['bbox']), a['category_id'] - 1, 0.9)
        for a in content['annotations']
    ]
    assert evaluate(annotations, images, detected)['coco/bbox_mAP'] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    'wrong', [dict(metric='proposal'), dict(ann_file=None), dict(metric_items=['mAP'])], ids=str
)
def test_what_it_does_not_do_is_said(wrong, annotations):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EffViMCocoMetric(**{'ann_file': str(annotations), 'metric': 'bbox', **wrong})
