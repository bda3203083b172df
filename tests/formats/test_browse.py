"""`effvim data browse` shows the objects, also dozens of small ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvim.visualization.annotations import draw_annotations
from effvim.visualization.rendering import class_palette
from tests.helpers.custom_data import annotation, draw_image, run, write_coco


def crowded(number=36, side=14, size=256):
    """Boxes of small objects that do not touch, x1 y1 x2 y2."""
    rng = np.random.default_rng(0)
    places: list[tuple[int, int]] = []
    while len(places) < number:
        x, y = rng.integers(0, size - side, 2).tolist()
        if all(max(abs(x - a), abs(y - b)) > side + 3 for a, b in places):
            places.append((x, y))
    return np.array([(x, y, x + side, y + side) for x, y in places])


@pytest.mark.parametrize('classes', [['nucleus'], ['nucleus', 'a rather long name', 'cell']])
def test_small_objects_are_not_covered(classes):
    boxes = crowded()
    pixels = np.full((256, 256, 3), 40, np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 128
    labels = np.arange(len(boxes)) % len(classes)
    drawn = draw_annotations(pixels, boxes, labels, classes, [[]] * len(boxes))
    factor = drawn.width // 256
    assert factor >= 2
    size = 256 * factor, 256 * factor
    plain = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    seen = np.asarray(drawn).astype(int)[: size[1]]  # without the legend
    changed = np.abs(seen - plain).max(-1) > 20
    for (x1, y1, x2, y2), label in zip(boxes * factor, labels):
        assert not changed[y1 + factor : y2 - factor, x1 + factor : x2 - factor].any()
        ring = np.zeros(changed.shape, bool)
        ring[y1:y2, x1:x2] = True
        ring[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = False
        assert changed[ring].all()
        own_colour = (seen[ring] == class_palette(3)[label]).all(-1)
        assert own_colour.mean() > 0.7  # a name may touch a side


def test_a_class_without_room_is_in_the_legend():
    """The object fills the image: its name would cover it."""
    pixels = np.full((60, 60, 3), 128, np.uint8)
    drawn = draw_annotations(pixels, np.array([[0, 0, 60, 60.0]]), np.array([0]), ['x' * 40], [[]])
    assert drawn.height > drawn.width


def test_names_stay_inside_the_image_and_off_one_another():
    """As many of their white pixels are seen as where each has all the room."""
    pixels, names = np.full((90, 120, 3), 128, np.uint8), ['left', 'right']

    def letters(boxes, labels):
        drawn = draw_annotations(pixels, np.array(boxes), labels, names, [[]] * len(boxes))
        assert drawn.size == (120 * 4, 90 * 4)  # no legend is needed
        return (np.asarray(drawn).min(2) > 200).sum()

    left, right = (letters([(45, 30, 75, 60)], [label]) for label in range(2))
    assert left > 20 and right > 20 and left != right
    corners = [(0, 0, 30, 30), (90, 0, 120, 30), (0, 60, 30, 90), (90, 60, 120, 90)]
    assert letters(corners, [0, 1, 0, 1]) == 2 * left + 2 * right
    crowd = [(45, 30, 75, 60), (47, 31, 75, 60), (46, 33, 75, 60)]
    assert letters(crowd, [0, 1, 0]) == 2 * left + right


def test_outlines_are_drawn(own):
    draw_image(own / 'train/a.jpg')
    outline = [[5, 5, 60, 5, 60, 40]]  # the box's other half stays as it is
    write_coco(
        own / 'annotations/train.json',
        annotations=[annotation(bbox=[5, 5, 55, 35], segmentation=outline)],
    )
    assert run('browse own seen') == 0
    seen = Image.open('seen/train/a.png')
    factor = seen.width // 64
    plain = Image.open(own / 'train/a.jpg').resize(seen.size, Image.Resampling.BICUBIC)
    changed = np.abs(np.asarray(seen).astype(int) - np.asarray(plain)).max(-1) > 8
    inside, outside = (
        changed[10 * factor, 40 * factor : 55 * factor],
        changed[38 * factor, 8 * factor],
    )
    assert inside.mean() > 0.9 and not outside


def test_large_images_keep_their_size(own):
    draw_image(own / 'train/a.jpg', (1200, 800))
    write_coco(
        own / 'annotations/train.json',
        [dict(id=1, file_name='a.jpg', width=1200, height=800)],
        categories=[dict(id=1, name='猫 кот')],
    )
    assert run('browse own seen') == 0
    assert Image.open(Path('seen/train/a.png')).size == (1200, 800)
