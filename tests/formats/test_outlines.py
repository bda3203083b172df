"""Polygons and masks survive a conversion to YOLO."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from effvim.datasets.coco import encode_mask
from effvim.formats.outlines import as_one_polygon
from tests.helpers.custom_data import annotation, draw_image, run, write_coco

SQUARE = [10, 10, 30, 10, 30, 25, 10, 25]
SECOND = [40, 30, 60, 30, 60, 40]
THIRD = [45, 2, 50, 2, 50, 9, 45, 9]


def decoded(segmentation):
    return rle.decode(encode_mask(segmentation, 64, 48)).astype(bool)


def through_yolo(own, segmentation):
    """The line in YOLO, and the segmentation after the way back."""
    draw_image(own / 'train/a.jpg')
    write_coco(
        own / 'annotations/train.json',
        annotations=[annotation(segmentation=segmentation, bbox=[5, 2, 55, 38])],
    )
    assert run('convert own yolo --to yolo') == 0 and run('convert yolo back') == 0
    (file,) = Path('yolo/labels/train').iterdir()
    content = json.loads(Path('back/annotations/instances_train2017.json').read_text())
    return file.read_text().split(), content['annotations'][0]


def test_a_polygon_keeps_its_points(own, capsys):
    line, back = through_yolo(own, [SQUARE])
    assert len(line) == 9
    assert back['segmentation'][0] == pytest.approx(SQUARE, abs=1e-4)
    assert 'dropped' not in capsys.readouterr().err


def test_several_polygons_become_one_of_the_same_pixels(own):
    line, back = through_yolo(own, [SQUARE, SECOND, THIRD])
    assert len(line) % 2 == 1
    before, after = decoded([SQUARE, SECOND, THIRD]), decoded(back['segmentation'])
    assert (before & after).sum() / (before | after).sum() > 0.95


def test_a_mask_becomes_its_outline(own):
    inside = np.zeros((48, 64), np.uint8)
    inside[10:30, 12:40] = 1
    inside[15:20, 50:55] = 1
    y, x = np.mgrid[:48, :64]
    inside |= ((x - 40) ** 2 + (y - 35) ** 2 < 64).astype(np.uint8)
    encoded = rle.encode(np.asfortranarray(inside))
    encoded['counts'] = encoded['counts'].decode()
    _, back = through_yolo(own, encoded)
    after = decoded(back['segmentation'])
    assert (inside.astype(bool) & after).sum() / (inside.astype(bool) | after).sum() > 0.93


def test_a_rectangle_of_pixels_is_exact():
    inside = np.zeros((48, 64), np.uint8)
    inside[10:30, 12:40] = 1
    encoded = rle.encode(np.asfortranarray(inside))
    encoded['counts'] = encoded['counts'].decode()
    polygon = np.reshape(as_one_polygon(encoded, 64, 48), (-1, 2))
    assert sorted(set(map(tuple, polygon))) == [(12, 10), (12, 30), (40, 10), (40, 30)]


def test_an_object_without_outline_stays_a_box(own):
    line, back = through_yolo(own, [])
    assert len(line) == 5 and back['bbox'] == pytest.approx([5, 2, 55, 38], abs=1e-4)
