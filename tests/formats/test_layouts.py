"""Your own data as other tools lay it out, and the notes about it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from effvim.datasets.scenes import CLASSES
from tests.helpers.custom_data import (
    assert_refused,
    assert_same,
    boxes_of_coco,
    converted,
    draw_image,
    run,
    write_coco,
    write_voc,
)


def path_in(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def roboflow_coco(root):
    for name in ('train', 'valid'):
        (root / name).mkdir(parents=True)
    for split, folder in (('train', 'train'), ('val', 'valid')):
        content = json.loads(Path(f'ready/annotations/instances_{split}2017.json').read_text())
        (root / folder / '_annotations.coco.json').write_text(json.dumps(content))
        for file in Path(f'ready/{split}2017').iterdir():
            file.rename(root / folder / file.name)


def cvat_coco(root):
    assert run('convert shapes all') == 0
    (root / 'annotations').mkdir(parents=True)
    Path('all/annotations/instances_train2017.json').rename(
        root / 'annotations/instances_default.json'
    )
    Path('all/train2017').rename(root / 'images')


def next_to_each_other(root):  # labelImg; with folders train and valid, Roboflow
    assert run('convert shapes voc --to voc') == 0
    Path('voc/JPEGImages').rename(root)
    for file in Path('voc/Annotations').iterdir():
        file.rename(root / file.name)


def label_studio_voc(root):
    assert run('convert shapes voc --to voc') == 0
    Path('voc').rename(root)
    (root / 'JPEGImages').rename(root / 'images')


def numbered_voc(root):  # names that end as the lines of a class's list do
    for i in range(12):
        for path in (
            Path(f'shapes/images/train/{i:05}.png'),
            Path(f'shapes/labels/train/{i:05}.txt'),
        ):
            path.rename(path.with_stem(f'{i // 2} {i % 2}'))
    assert run(f'convert shapes {root} --to voc') == 0


def linked_yolo(root):
    Path('shapes').rename(root)
    for kind in ('images', 'labels'):
        (root / kind / 'train').rename(Path(f'elsewhere_{kind}'))
        (root / kind / 'train').symlink_to(Path(f'elsewhere_{kind}').absolute())


def windows_yolo(root):  # a byte order mark and its line ends
    Path('shapes').rename(root)
    for path in [root / 'data.yaml', *(root / 'labels/train').iterdir()]:
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
    hidden = root / 'images/train/.ipynb_checkpoints'
    hidden.mkdir()
    shutil.copy(root / 'images/train/00000.png', hidden / '00000-checkpoint.png')


@pytest.mark.parametrize(
    'layout',
    [
        roboflow_coco,
        cvat_coco,
        next_to_each_other,
        label_studio_voc,
        numbered_voc,
        linked_yolo,
        windows_yolo,
    ],
)
def test_layouts_of_other_tools(layout, shapes, capsys):
    assert run('split shapes ready') == 0
    layout(Path('own'))
    capsys.readouterr()
    assert run('convert own out') == 0, capsys.readouterr().err
    boxes = boxes_of_coco(Path('out'))
    # images in the same order, whatever they are called now
    assert_same(
        dict(enumerate(boxes[stem] for stem in sorted(boxes))),
        dict(enumerate(shapes[stem] for stem in sorted(shapes))),
    )


def test_splits_go_by_their_usual_names(shapes, capsys):
    """valid for val, there and back through every format; nothing is left behind."""
    assert run('split shapes ready') == 0
    Path('ready/annotations/instances_val2017.json').rename('ready/annotations/valid.json')
    Path('ready/val2017').rename('ready/valid')
    for kind in ('yolo', 'voc', 'coco'):
        assert run(f'convert ready {kind} --to {kind}') == 0
        assert run(f'convert {kind} {kind}_back') == 0
        files = [Path(f'{kind}_back/annotations/instances_{s}2017.json') for s in ('train', 'val')]
        assert [len(json.loads(file.read_text())['images']) for file in files] == [10, 2]
    shutil.copy('ready/annotations/valid.json', 'ready/annotations/val.json')
    assert_refused('convert ready out', capsys, 'second file of the split val')


def masks_of_objects(folder):
    draw_image(folder / 'x/images/a.jpg')
    Image.new('L', (64, 48), 1).save(path_in(folder / 'x/masks/0.png'))


def masks_of_classes(folder):
    draw_image(folder / 'images/a.jpg')
    Image.new('L', (64, 48), 1).save(path_in(folder / 'masks/a.png'))


def masks_elsewhere(folder):
    draw_image(folder / 'a.jpg')
    Image.new('L', (64, 48), 1).save(path_in(folder.with_name(f'{folder.name}_masks') / 'a.png'))


def voc_next_to_images(folder):
    draw_image(folder / 'a.jpg', seed=len(str(folder)))
    write_voc(folder / 'a.xml')


def coco_next_to_images(folder):
    draw_image(folder / 'a.jpg')
    write_coco(folder / 'annotations.json')


@pytest.mark.parametrize(
    'layout',
    [masks_of_objects, masks_of_classes, masks_elsewhere, voc_next_to_images, coco_next_to_images],
)
def test_two_folders_of_one_split_are_refused(layout, own, capsys):
    """One of them would be lost."""
    for name in ('train', 'val', 'valid'):
        layout(own / name)
    assert_refused('convert own out', capsys, 'own/val', 'own/valid', 'split val')


def test_folders_of_a_split_without_annotations_are_no_second_split(own):
    draw_image(own / 'train2014/b.jpg')
    draw_image(own / 'train2017/a.jpg')
    write_coco(own / 'annotations/instances_train2017.json')
    assert converted('own')['train'].keys() == {'a.jpg'}


def test_places_of_yolo_images(shapes, capsys):
    """As Roboflow and ultralytics write them: ../, several folders, lists of files."""
    yaml = Path('shapes/data.yaml')
    (Path('shapes/images/more')).mkdir()
    (Path('shapes/labels/more')).mkdir()
    for i in (3, 4):
        for kind, end in (('images', 'png'), ('labels', 'txt')):
            file = Path(f'shapes/{kind}/train/{i:05}.{end}')
            file.rename(f'shapes/{kind}/more/{i:05}.{end}')
    Path('shapes/all.txt').write_text(
        ''.join(
            f'./{p.relative_to("shapes")}\n' for p in sorted(Path('shapes/images').rglob('*.png'))
        )
    )
    for number, where in (
        (10, '../images/train'),
        (12, ['images/train', 'images/more']),
        (12, 'all.txt'),
    ):
        yaml.write_text(f'train: {where}\nnames: {list(CLASSES)}\n')
        assert run('convert shapes out') == 0
        boxes = {stem.rpartition('/')[2]: v for stem, v in boxes_of_coco(Path('out')).items()}
        assert len(boxes) == number
        assert_same(boxes, {stem: shapes[stem] for stem in boxes})
        shutil.rmtree('out')
    Path('shapes/all.txt').write_text('images/train/absent.png\n')
    assert_refused('convert shapes out', capsys, 'absent.png')


def test_notes_on_what_was_assumed(shapes, capsys):
    Path('shapes/labels/train/00003.txt').unlink()
    assert run('convert shapes voc --to voc') == 0
    assert '1 of 12 images have no label file' in capsys.readouterr().err
    Path('voc/Annotations/00004.xml').unlink()
    Path('voc/ImageSets/Main/train.txt').write_text('00000\n00001\n')
    Path('voc/ImageSets/Main/val.txt').write_text('00004\n')
    assert run('convert voc out') == 0
    err = capsys.readouterr().err
    assert '1 of 12 images have no annotation' in err and '9 of 12 images are in no list' in err
    assert boxes_of_coco(Path('out')).keys() == {'00000', '00001', '00004'}
