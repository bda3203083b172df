"""Drawings of predictions and ground truth, pixel by pixel."""

import gc
import itertools

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from PIL import Image, ImageFont

from effvim.visualization.comparison import PANEL_SIZE, draw_comparison, side_by_side
from effvim.visualization.rendering import (
    add_legend,
    class_palette,
    draw_instances,
    draw_label_map,
    text_font,
    text_size,
)

NAMES = ('cat', 'dog', 'bird')
GREY = np.full((300, 400, 3), 128, np.uint8)


def pixels(drawn):
    return np.asarray(drawn).astype(int)


def is_colour(drawn, label):
    return (np.asarray(drawn) == class_palette(len(NAMES))[label]).all(2)


def test_nothing_to_draw_gives_the_image():
    drawn = draw_instances(GREY, np.empty((0, 4)), np.empty(0, int), NAMES, np.empty(0))
    assert np.array_equal(drawn, GREY)


def test_the_image_itself_is_not_changed():
    image = GREY.copy()
    masks = np.ones((1, 300, 400), bool)
    draw_instances(image, np.array([[50, 50, 90, 90]]), np.array([0]), NAMES, masks=masks)
    draw_label_map(image, np.zeros((300, 400), int), NAMES)
    assert np.array_equal(image, GREY)


def test_colours_depend_on_the_label_alone():
    few, many = class_palette(3), class_palette(200)
    assert np.array_equal(few, many[:3]) and len(np.unique(many, axis=0)) > 190
    box = np.array([[100, 100, 200, 200]])
    for label in range(3):
        for names in (NAMES, NAMES + tuple('0123456789')):
            drawn = draw_instances(GREY, box, np.array([label]), names)
            assert is_colour(drawn, label)[150, 100]


def test_highest_scoring_boxes_are_on_top():
    boxes = np.array([[100, 100, 200, 200], [100, 100, 200, 200]])
    for scores in ([0.9, 0.4], [0.4, 0.9]):
        drawn = draw_instances(GREY, boxes, np.array([0, 1]), NAMES, np.array(scores))
        assert is_colour(drawn, int(np.argmax(scores)))[150, 100]


def test_smaller_masks_are_on_top():
    masks = np.zeros((2, 300, 400), bool)
    masks[0, 100:200, 100:300] = masks[1, 120:180, 150:200] = True
    boxes = np.array([[100, 100, 299, 199], [150, 120, 199, 179]])
    for scores in ([0.9, 0.4], [0.4, 0.9]):
        drawn = pixels(
            draw_instances(GREY, boxes, np.array([0, 1]), NAMES, np.array(scores), masks)
        )
        blend = (class_palette(2).astype(int) + 128) / 2
        assert np.abs(drawn[190, 250] - blend[0]).max() <= 1
        assert np.abs(drawn[150, 175] - blend[1]).max() <= 1


@pytest.mark.parametrize('box', [(0, 0, 30, 30), (380, 0, 399, 299), (300, 270, 399, 299)])
def test_names_stay_inside_the_image(box):
    """Wherever the box is, as much of the name can be seen as in the middle."""

    def lettering(box):
        drawn = np.asarray(draw_instances(GREY, np.array([box]), np.array([0]), NAMES))
        return (drawn.min(2) > 150).sum()  # white on the red of label 0

    assert lettering(box) == lettering((150, 150, 250, 250)) > 20


def test_names_do_not_hide_one_another():
    boxes = np.array([[100, 100, 200, 200], [102, 101, 200, 200], [101, 103, 200, 200]])
    apart = sum(
        is_colour(draw_instances(GREY, boxes[:1], np.array([label]), NAMES), label).sum()
        for label in range(3)
    )
    together = draw_instances(GREY, boxes, np.arange(3), NAMES)
    drawn = sum(is_colour(together, label).sum() for label in range(3))
    lines = 3 * 3 * 400  # what boxes on top hide of the others, at most
    assert drawn > apart - lines
    for label in range(3):
        assert is_colour(together, label).sum() > 300  # more than lines: its name's background


def test_boxes_of_any_number_can_be_drawn():
    boxes = np.random.RandomState(0).random_sample((5_000, 2)) * 300
    drawn = draw_instances(
        GREY, np.hstack([boxes, boxes + 3]), np.zeros(5_000, int), NAMES, np.ones(5_000)
    )
    assert is_colour(drawn, 0).mean() > 0.1


def test_letters_grow_with_the_image():
    sizes = [text_size(Image.new('RGB', (side, side))) for side in (100, 1000, 4000)]
    assert sizes == sorted(sizes) and sizes[0] >= 10 and sizes[2] >= 4000 / 60


def test_small_images_can_be_drawn_into():
    image = GREY[:8, :8]
    drawn = draw_instances(image, np.array([[0, 0, 7, 7]]), np.array([0]), NAMES, np.array([0.5]))
    assert drawn.size == (8, 8)
    assert draw_label_map(image, np.zeros((8, 8), int), NAMES).width == 8


@pytest.mark.parametrize('name', ['Κτίριο', 'Дерево', 'Häuschen', 'سيارة', 'Ձուկ'])
def test_names_of_any_script_have_letters(name):
    """A font without a letter draws the same box for each."""
    font = text_font(name, 20)
    masks = {bytes(font.getmask(letter)) for letter in set(name)}
    assert len(masks) == len(set(name)) and bytes(font.getmask('\ufffe')) not in masks
    drawn = draw_instances(GREY, np.array([[100, 100, 200, 200]]), np.array([0]), [name])
    assert not np.array_equal(drawn, GREY)


def test_label_map_is_coloured_and_ignored_pixels_are_not():
    labels = np.full((300, 400), 255)
    labels[:100], labels[100:150] = 0, 2
    drawn = pixels(draw_label_map(GREY, labels, NAMES))
    blend = (class_palette(3).astype(int) + 128) / 2
    assert np.abs(drawn[:100] - blend[0]).max() <= 1
    assert np.abs(drawn[100:150] - blend[2]).max() <= 1
    assert np.array_equal(drawn[150:300], GREY[150:])


def test_legend_names_the_classes_that_occur():
    labels = np.full((300, 400), 255)
    labels[:100], labels[100:150] = 0, 2
    drawn = draw_label_map(GREY, labels, NAMES)
    legend = np.asarray(drawn)[300:]
    assert len(legend) > text_size(drawn)
    shown = [(legend == colour).all(2) for colour in class_palette(3)]
    assert [s.any() for s in shown] == [True, False, True]
    # most pixels first
    assert shown[0].nonzero()[1].max() < shown[2].nonzero()[1].min()
    without = draw_label_map(GREY, labels, NAMES, legend=False)
    assert without.size == (400, 300)
    assert draw_label_map(GREY, np.full((300, 400), 255), NAMES).size == (400, 300)


def test_long_legends_wrap():
    names = [f'a class with a long name {i}' for i in range(12)]
    labels = np.arange(12).repeat(25)[:, None].repeat(400, 1)
    legend = np.asarray(draw_label_map(GREY, labels, names))[300:]
    for colour in class_palette(12):
        assert (legend == colour).all(2).any()


def open_fonts():
    gc.collect()
    return sum(type(each) is ImageFont.FreeTypeFont for each in gc.get_objects())


def test_drawing_opens_few_fonts():
    """A dataset has images of any classes and any size; an open font is memory and a file."""
    names = ['Straße', 'Weg', 'Baum', 'Haus', 'Κτίριο', 'sky', 'water']
    before = open_fonts()
    for present in itertools.combinations(range(len(names)), 3):
        draw_label_map(GREY, np.resize(present, (300, 400)), names)
    assert open_fonts() <= before + 1
    for size in range(20, 120):
        add_legend(Image.fromarray(GREY), np.zeros((300, 400), int), names, size)
    assert open_fonts() <= before + 20


def test_side_by_side():
    left, right = Image.new('RGB', (400, 300), 'red'), Image.new('RGB', (400, 300), 'blue')
    both = side_by_side(left, right, ('left', 'right'))
    drawn = np.asarray(both)
    assert (drawn == (255, 0, 0)).all(2).sum() == (drawn == (0, 0, 255)).all(2).sum() == 120_000
    assert both.width > 800 and both.height > 300 and (drawn[: both.height - 300] == 0).any()


class Sample(dict):
    __getattr__ = dict.__getitem__


def grey_image(tmp_path):
    Image.fromarray(GREY[:75, :100]).save(tmp_path / 'a.png')
    return str(tmp_path / 'a.png')


def test_comparison_of_objects(tmp_path):
    """Small images are enlarged, so that names are legible; boxes grow with them."""
    box = torch.tensor([[25.0, 30, 75, 60]])
    sample = Sample(
        img_path=grey_image(tmp_path),
        gt_instances=InstanceData(bboxes=box, labels=torch.tensor([1])),
        pred_instances=InstanceData(
            bboxes=torch.cat([box, box + 5]),
            labels=torch.tensor([2, 0]),
            scores=torch.tensor([0.9, 0.1]),
        ),
    )
    drawn = draw_comparison(sample, NAMES)
    left, right = (
        np.asarray(drawn.crop((x, drawn.height - 480, x + PANEL_SIZE, drawn.height)))
        for x in (0, drawn.width - PANEL_SIZE)
    )
    scale = PANEL_SIZE / 100
    for panel, label in ((left, 1), (right, 2)):
        assert is_colour(panel, label)[round(45 * scale), round(25 * scale)]
        assert not is_colour(panel, 0).any()  # below the threshold


def test_comparison_of_label_maps(tmp_path):
    ground_truth, predicted = torch.zeros(1, 75, 100), torch.full((1, 75, 100), 2)
    ground_truth[:, 40:] = 255
    sample = Sample(
        img_path=grey_image(tmp_path),
        gt_sem_seg=PixelData(data=ground_truth.long()),
        pred_sem_seg=PixelData(data=predicted),
    )
    drawn = draw_comparison(sample, NAMES)
    top = 2 * text_size(Image.new('RGB', (PANEL_SIZE, 480)))
    panels = pixels(drawn)[top : top + 480]
    blend = (class_palette(3).astype(int) + 128) / 2
    assert np.abs(panels[:250, :PANEL_SIZE] - blend[0]).max() <= 1
    assert (panels[260:, :PANEL_SIZE] == 128).all()
    assert np.abs(panels[:, -PANEL_SIZE:] - blend[2]).max() <= 1
    legend = np.asarray(drawn)[top + 480 :]
    shown = [(legend == colour).all(2).any() for colour in class_palette(3)]
    assert shown == [True, False, True]
