"""Semantic masks as people have them: names, directories, values and colours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.custom_data import (
    assert_refused,
    draw_image,
    run,
    stats,
    write_coco,
    write_labels,
)

LEAF = 600 / (64 * 48)  # fraction of the pixels


def labels_of(values=(0, 1)):
    labels = np.full((48, 64), values[0], np.uint8)
    labels[10:30, 10:40] = values[1]
    return labels


def draw(root, save, classes=('ground', 'leaf'), images='images', masks='masks', name='{}.png'):
    """Two images; `save` turns labels into the image of a mask."""
    for i, stem in enumerate(('a', 'b')):
        draw_image(root / images / f'{stem}.jpg', seed=i)
        path = root / masks / name.format(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(labels_of()).save(path)
    if classes:
        write_labels(root / 'classes.txt', *classes)


def palette(labels):
    image = Image.fromarray(labels, 'P')
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    return image


def coloured(labels):
    return Image.fromarray(np.array([[0, 0, 0], [0, 128, 0]], np.uint8)[labels])


def check(capsys, names=('ground', 'leaf'), flags='', split='all'):
    """The classes, their fractions, and the label maps that conversion writes; returns notes."""
    found, err = stats('own', capsys, flags)
    assert found['classes'] == list(names)
    fractions = found['splits'][split]['fraction of pixels']
    assert [fractions[name] for name in names[:2]] == pytest.approx([1 - LEAF, LEAF])
    assert found['splits'][split]['ignored pixels'] == pytest.approx(0, abs=1e-9)
    assert run(f'convert own out {flags}') == 0
    files = sorted(Path('out/annotations').rglob('*.png'))
    assert len(files) == 2
    for file in files:
        written = Image.open(file)
        assert written.mode in ('L', 'P')
        np.testing.assert_array_equal(np.asarray(written), labels_of())
    assert Path('out/classes.txt').read_text().split() == list(names)
    assert run('stats out') == 0
    shutil.rmtree('out')
    return err


@pytest.mark.parametrize(
    'save',
    [
        Image.fromarray,
        palette,
        lambda labels: Image.fromarray(labels.astype(bool)),  # one bit
        lambda labels: Image.fromarray(labels.astype(np.uint16)),
        lambda labels: Image.fromarray(np.stack([labels] * 3, -1)),  # RGB, as paint programs save
        lambda labels: Image.fromarray(np.stack([labels] * 3 + [labels * 0 + 255], -1)),
    ],
    ids=['8 bits', 'palette', '1 bit', '16 bits', 'RGB', 'RGBA'],
)
def test_values_that_are_classes(save, own, capsys):
    draw(own, save)
    check(capsys)


@pytest.mark.parametrize(
    'save',
    [lambda x: Image.fromarray(x * 255), lambda x: Image.fromarray(np.stack([x * 255] * 3, -1))],
)
def test_binary_masks(save, own, capsys):
    draw(own, save)
    assert "255 is taken as 'leaf'" in check(capsys)
    (own / 'classes.txt').unlink()
    assert 'background and foreground' in check(capsys, ('background', 'foreground'))
    write_labels(own / 'classes.txt', 'ground', 'leaf', 'stem')
    assert_refused('stats own', capsys, '255', 'write 1')


@pytest.mark.parametrize('classes', [('background', 'foreground'), None])
def test_binary_masks_next_to_an_unreadable_one(classes, own, capsys):
    """255 stays foreground; it would be ignored if one file decided about all."""
    draw(own, lambda labels: Image.fromarray(labels * 255), classes)
    draw_image(own / 'images/0.jpg', seed=2)
    (own / 'masks/0.png').write_bytes(b'no image')
    assert_refused('stats own', capsys, '0.png cannot be read')
    flags = '--skip-invalid --max-invalid 0.5'
    assert 'skipped 1 images' in check(capsys, ('background', 'foreground'), flags)


def test_nothing_to_learn_without_invalid_images(own, capsys):
    draw(own, lambda labels: Image.fromarray(labels * 0))
    draw_image(own / 'images/0.jpg', seed=2)
    Image.new('L', (9, 9), 1).save(own / 'masks/0.png')
    flags = '--skip-invalid --max-invalid 0.5'
    assert_refused(f'convert own out {flags}', capsys, "only the class 'ground'", '9 × 9')


def test_masks_without_classes(own, capsys):
    draw(own, Image.fromarray, None)
    check(capsys, ('background', 'foreground'))
    draw(own, lambda labels: Image.fromarray(labels * 7), None)
    assert_refused('stats own', capsys, 'classes.txt', 'values 0, 7', '--colors')


@pytest.mark.parametrize(
    'name',
    ['{}_mask.png', 'mask_{}.png', '{}-seg.png', '{}_gt.tif', '{}_labels.bmp', '{}.mask.0.png'],
)
def test_names_of_masks(name, own, capsys):
    draw(own, Image.fromarray, name=name)
    assert 'by their names' in check(capsys)


def test_names_of_images_and_masks_with_different_ends(own, capsys):
    for i in range(12):
        draw_image(own / f'images/city_{i:02}_leftImg8bit.png', seed=i)
        path = own / f'masks/city_{i:02}_gtFine_labelIds.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(labels_of()).save(path)
    write_labels(own / 'classes.txt', 'ground', 'leaf')
    assert stats('own', capsys)[0]['splits']['all']['images'] == 12
    (own / 'masks/city_03_gtFine_labelIds.png').unlink()
    (own / 'masks/city_04_gtFine_labelIds.png').unlink()
    assert_refused('stats own', capsys, '2 images have no annotation file', 'city_03', 'city_04')


def test_names_that_do_not_match(own, capsys):
    draw(own, Image.fromarray)
    for i, stem in enumerate('ab'):
        (own / f'masks/{stem}.png').rename(own / f'masks/{i}1.png')
    assert_refused('stats own', capsys, 'same name', 'a.jpg', '01.png')


@pytest.mark.parametrize(
    'images, masks, split',
    [
        ('Images', 'Masks', 'all'),
        ('JPEGImages', 'SegmentationClass', 'all'),
        ('img_dir', 'ann_dir', 'all'),
        ('images', 'labels', 'all'),
        ('imgs', 'gt', 'all'),
        ('images/train', 'masks/train', 'train'),
        ('train/images', 'train/masks', 'train'),
        ('train', 'trainannot', 'train'),
        ('train', 'train_labels', 'train'),
        ('val', 'val_masks', 'val'),
    ],
)
def test_folders(images, masks, split, own, capsys):
    draw(own, Image.fromarray, images=images, masks=masks)
    check(capsys, split=split)


def test_lists_of_a_voc_dataset(own, capsys):
    draw(own, palette, images='JPEGImages', masks='SegmentationClass')
    write_labels(own / 'ImageSets/Segmentation/train.txt', 'a')
    write_labels(own / 'ImageSets/Segmentation/val.txt', 'b')
    assert stats('own', capsys)[0]['splits'].keys() == {'train', 'val'}


def test_cvat_segmentation_masks(own, capsys):
    draw(own, coloured, None, 'JPEGImages', 'SegmentationClass')
    draw_image(own / 'SegmentationObject/a.png')
    write_labels(own / 'ImageSets/Segmentation/default.txt', 'a', 'b')
    (own / 'labelmap.txt').write_text(TABLES['labelmap.txt'])
    check(capsys)


TABLES = {
    'colors.txt': '0 0 0 ground\n0 128 0 leaf\n',
    'label_colors.txt': '0 0 0\tground\n0 128 0\t\tleaf\n',  # CamVid
    'labelmap.txt': '# label:color_rgb:parts:actions\nground:0,0,0::\nleaf:0,128,0::\n',  # CVAT
    'class_dict.csv': 'name,r,g,b\nground,0,0,0\nleaf, 0, 128, 0\n',
    'colors.json': '{"ground": [0, 0, 0], "leaf": [0, 128, 0]}',
    'colormap.txt': '0 ground 0 0 0\n1 leaf 0 128 0\n',
}


@pytest.mark.parametrize('name', TABLES)
@pytest.mark.parametrize('save', [coloured, lambda x: palette(x * 2)], ids=['RGB', 'palette'])
def test_tables_of_colours(name, save, own, capsys):
    draw(own, save, None)
    (own / name).write_text(TABLES[name])
    check(capsys)
    (own / name).rename('table' + Path(name).suffix)
    check(capsys, flags=f'--colors table{Path(name).suffix}')


def test_a_table_next_to_names_is_ignored_with_a_note(own, capsys):
    draw(own, Image.fromarray)
    (own / 'class_dict.csv').write_text(TABLES['class_dict.csv'])
    assert 'own/class_dict.csv is ignored' in check(capsys)
    draw(own, coloured)
    assert 'is ignored' not in check(capsys, flags='--colors own/class_dict.csv')


@pytest.mark.parametrize('source', ['own', 'own/train.json', 'own/data.yaml'])
def test_colours_of_a_dataset_without_masks_are_refused(source, own, capsys):
    draw_image(own / 'a.jpg')
    if source.endswith('yaml'):
        write_labels(own / 'a.txt', '0 .5 .5 .1 .1')
        write_labels(own / 'data.yaml', 'train: .', 'names: [cat]')
    else:
        write_coco(own / 'train.json')
    (own / 'table.txt').write_text(TABLES['colors.txt'])
    assert run(f'stats {source}') == 0
    assert_refused(f'stats {source} --colors own/table.txt', capsys, 'table.txt', 'drop the flag')


def test_colours_without_a_table(own, capsys):
    draw(own, coloured)
    assert_refused('stats own', capsys, 'channels', '--colors')


def test_colours_that_nobody_named(own, capsys):
    draw(own, coloured, None)
    write_labels(own / 'colors.txt', '0 0 0 ground', '9 9 9 leaf')
    assert_refused('stats own', capsys, 'a.png', '600 pixels of colour 0 128 0', 'colors.txt')
    write_labels(own / 'colors.txt', '0 0 0 ground', '9 9 9 leaf', '0 128 0 void')
    assert_refused('stats own', capsys, "only the class 'ground'")
    for lines, word in (
        (['0 0 0 ground'], '1 classes'),
        (['0 0 0 ground', '1 leaf'], 'use one'),
        (['0 0 0 ground', '0 0 0 leaf'], 'two classes'),
        (['0 0 0 ground', '0 300 0 leaf'], '300'),
        (['ground', 'leaf'], 'names no class'),
    ):
        write_labels(own / 'colors.txt', *lines)
        assert_refused('stats own', capsys, 'colors.txt', word)
    assert_refused('stats own --colors absent.txt', capsys, 'absent.txt')


def test_gaps_in_the_values(own, capsys):
    draw(own, lambda labels: Image.fromarray(labels * 21 + 3), None)
    assert_refused('stats own', capsys, 'values 3, 24')
    write_labels(own / 'values.txt', '3 ground', '24 leaf')
    check(capsys)
    for stem in 'ab':
        labels = labels_of() * 21 + 3
        labels[0, 0] = 7
        Image.fromarray(labels).save(own / f'masks/{stem}.png')
    write_labels(own / 'values.txt', '3 ignore', '24 leaf', '7 stem')
    found = stats('own', capsys)[0]['splits']['all']
    assert found['ignored pixels'] == pytest.approx(1 - LEAF - 1 / (64 * 48))


def test_jpeg_masks_are_refused(own, capsys):
    draw(own, Image.fromarray, name='{}.jpg')
    assert_refused('stats own', capsys, 'JPEG', 'PNG')


def test_boxes_come_before_masks_that_nobody_named(own, capsys):
    """As in VOC's own directory."""
    from tests.helpers.custom_data import converted, write_voc

    draw(own, palette, None, 'JPEGImages', 'SegmentationClass')
    for stem in 'ab':
        write_voc(own / f'Annotations/{stem}.xml')
    assert len(converted('own')['all']['a.jpg']) == 1


def panoptic(root):
    """Two segments of one class and one of another; pixels without one are ignored."""
    identities = np.zeros((48, 64), np.int64)
    identities[:, :20], identities[:10, 20:], identities[10:20, 20:] = 7, 70_000, 256
    pixels = np.stack([identities % 256, identities // 256 % 256, identities // 65536], -1)
    draw_image(root / 'val2017/a.jpg')
    path = root / 'annotations/panoptic_val2017/a.png'
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=64, height=48)],
        annotations=[
            dict(
                image_id=1,
                file_name='a.png',
                segments_info=[
                    dict(id=i, category_id=c) for i, c in ((7, 3), (70_000, 3), (256, 90))
                ],
            )
        ],
        categories=[dict(id=90, name='sky', isthing=0), dict(id=3, name='cat', isthing=1)],
    )
    (root / 'annotations/panoptic_val2017.json').write_text(json.dumps(content))
    return np.select([identities == 256, identities == 0], [0, 255], 1)


def test_panoptic(own, capsys):
    labels = panoptic(own)
    assert stats('own', capsys)[0]['classes'] == ['sky', 'cat']
    assert run('convert own out') == 0
    written = np.asarray(Image.open('out/annotations/validation/a.png'))
    np.testing.assert_array_equal(written, labels)
    shutil.rmtree('out')
    assert run('browse own seen') == 0
    content = json.loads((own / 'annotations/panoptic_val2017.json').read_text())
    content['annotations'][0]['segments_info'].pop()
    (own / 'annotations/panoptic_val2017.json').write_text(json.dumps(content))
    assert_refused('stats own', capsys, 'a.png', 'panoptic_val2017.json')
    content['annotations'][0]['segments_info'][0]['category_id'] = 5
    (own / 'annotations/panoptic_val2017.json').write_text(json.dumps(content))
    assert_refused('stats own', capsys, 'a.jpg', 'category 5')


def test_masks_of_every_coding_are_drawn(own):
    draw(own, coloured, None)
    (own / 'colors.txt').write_text(TABLES['colors.txt'])
    assert run('browse own seen') == 0
    draw(own, lambda labels: Image.fromarray(labels.astype(bool)))
    assert run('browse own seen2') == 0
    one, other = (np.asarray(Image.open(next(Path(d).rglob('a.png')))) for d in ('seen', 'seen2'))
    np.testing.assert_array_equal(one, other)
