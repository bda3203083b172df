"""Datasets as annotation tools export them and people lay them out."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.custom_data import (
    annotation,
    assert_refused,
    converted,
    draw_image,
    run,
    write_coco,
    write_labels,
    write_voc,
)

LINE = '0 0.3125 0.364583333 0.3125 0.3125'  # the box below, in an image of 64 × 48 pixels
BOX = pytest.approx((10, 10, 20, 15), abs=0.01)


def one(found, name='a.jpg', split='all', label='cat'):
    """Check that a dataset has this image with one object."""
    ((got, *box),) = found[split][name]
    assert (got, tuple(box)) == (label, BOX)


def test_label_studio_coco(own):
    draw_image(own / 'images/a.jpg')
    for name in ('images/a.jpg', 'images\\a.jpg'):
        write_coco(own / 'result.json', [dict(id=1, file_name=name, width=64, height=48)])
        (own / 'notes.json').write_text('{"contributor": "me"}')
        one(converted('own'), 'images/a.jpg')
        one(converted('own/result.json'), 'images/a.jpg')


def test_label_studio_yolo(own):
    draw_image(own / 'images/a.jpg')
    write_labels(own / 'labels/a.txt', LINE)
    (own / 'notes.json').write_text('{"categories": [{"id": 0, "name": "cat"}]}')
    one(converted('own'))
    write_labels(own / 'classes.txt', 'cat', 'dog')
    one(converted('own'))


def region(kind, **value):
    return dict(type=kind, original_width=64, original_height=48, value={kind: ['cat'], **value})


PERCENT = dict(x=1000 / 64, y=1000 / 48, width=2000 / 64, height=1500 / 48, rotation=0)


def test_label_studio_json(own, capsys):
    draw_image(own / 'upload/1/0f-a.jpg')
    draw_image(own / 'upload/1/0f-b.jpg', seed=1)
    points = [[0, 0], [50, 0], [50, 50]]
    tasks = [
        dict(
            id=1,
            data=dict(image='/data/upload/1/0f-a.jpg'),
            annotations=[
                dict(was_cancelled=True, result=[]),
                dict(result=[region('rectanglelabels', **PERCENT), dict(value={'choices': ['x']})]),
            ],
        ),
        dict(
            id=2,
            data=dict(image='http://localhost:8080/data/upload/1/0f-b.jpg'),
            annotations=[dict(result=[region('polygonlabels', points=points)])],
        ),
    ]
    (own / 'project.json').write_text(json.dumps(tasks))
    found = converted('own')
    one(found, 'upload/1/0f-a.jpg')
    assert found['all']['upload/1/0f-b.jpg'] == [('cat', 0, 0, 32, 24)]
    assert 'neither boxes nor polygons' in capsys.readouterr().err
    minimal = [
        dict(id=1, image='/data/upload/1/0f-a.jpg', label=[dict(PERCENT, rectanglelabels=['cat'])])
    ]
    (own / 'project.json').write_text(json.dumps(minimal))
    one(converted('own/project.json'), 'upload/1/0f-a.jpg')
    (own / 'upload/1/0f-a.jpg').unlink()
    assert_refused('convert own out', capsys, '0f-a.jpg', 'not found')


def tasks_of(own, *tasks):
    (own / 'project.json').write_text(json.dumps(tasks))


ANNOTATED = dict(annotations=[dict(result=[region('rectanglelabels', **PERCENT)])])


@pytest.mark.parametrize('name', ['label', 'bbox', 'poly'])
def test_label_studio_json_min_names_regions_after_their_control(name, own):
    draw_image(own / 'a.jpg')
    regions = [dict(PERCENT, rectanglelabels=['cat'])]
    tasks_of(own, {'id': 1, 'image': 'a.jpg', 'tags': ['x'], 'meta': [{'x': 1}], name: regions})
    one(converted('own'))


def test_label_studio_tasks_without_an_annotation_are_no_background(own, capsys):
    for i, stem in enumerate('abcdef'):
        draw_image(own / f'{stem}.jpg', seed=i)
    tasks_of(
        own,
        dict(id=1, data=dict(image='a.jpg'), **ANNOTATED),
        dict(id=2, data=dict(image='b.jpg'), annotations=[]),
        dict(id=3, data=dict(image='c.jpg'), annotations=[dict(was_cancelled=True, result=[])]),
        dict(id=4, data=dict(image='d.jpg'), predictions=ANNOTATED['annotations']),
        dict(id=5, image='e.jpg', annotation_id=None),
        dict(id=6, data=dict(image='f.jpg'), annotations=[dict(result=[])]),
    )
    found = converted('own')
    assert found['all'].keys() == {'a.jpg', 'f.jpg'} and not found['all']['f.jpg']
    assert '4 tasks have no annotation' in capsys.readouterr().err
    tasks_of(own, dict(id=4, data=dict(image='d.jpg'), predictions=ANNOTATED['annotations']))
    assert_refused('convert own out', capsys, 'project.json', 'predictions are not read')


@pytest.mark.parametrize(
    'data',
    [
        dict(image='/data/local-files/?d=a.jpg'),
        dict(image='/data/local-files/?d=set%5Csub/a.jpg'),
        dict(image='https://bucket/set/a.jpg?key=x/y.z'),
        dict(caption='A dog.', image='/data/upload/1/a.jpg'),
        dict(taken='2024.01.02', image='http://host/a.jpg?x=1'),
    ],
)
def test_urls_of_label_studio(data, own):
    draw_image(own / 'a.jpg')
    tasks_of(own, dict(id=1, data=data, **ANNOTATED))
    one(converted('own'))


def test_an_image_of_label_studio_that_is_there_twice(own, capsys):
    for folder in ('x', 'y'):
        draw_image(own / folder / 'a.jpg')
    tasks_of(own, dict(id=1, data=dict(image='a.jpg'), **ANNOTATED))
    assert_refused('convert own out', capsys, 'own/x/a.jpg, own/y/a.jpg: keep one')


def test_a_turned_box_of_label_studio_is_the_box_around_it(own):
    draw_image(own / 'a.jpg', (100, 100))
    turned = dict(x=50, y=50, width=20, height=10, rotation=90)  # around its corner, clockwise
    tasks = [
        dict(
            id=1,
            data=dict(image='a.jpg'),
            annotations=[dict(result=[region('rectanglelabels', **turned)])],
        )
    ]
    (own / 'project.json').write_text(json.dumps(tasks))
    ((_, *box),) = converted('own')['all']['a.jpg']
    assert box == pytest.approx([40, 50, 10, 20])


def test_cvat_yolo(own):
    """YOLO 1.1: obj.data, lists of paths that begin with data/, labels next to the images."""
    draw_image(own / 'obj_train_data/a.jpg')
    draw_image(own / 'obj_valid_data/b.jpg', seed=1)
    write_labels(own / 'obj_train_data/a.txt', LINE)
    write_labels(own / 'obj_valid_data/b.txt', LINE)
    write_labels(own / 'obj.names', 'cat', 'dog')
    write_labels(own / 'train.txt', 'data/obj_train_data/a.jpg')
    write_labels(own / 'valid.txt', 'data/obj_valid_data/b.jpg')
    write_labels(
        *(own / 'obj.data', 'classes = 2', 'train = data/train.txt', 'valid = data/valid.txt'),
        *('names = data/obj.names', 'backup = backup/'),
    )
    found = converted('own')
    one(found, 'a.jpg', 'train')
    one(found, 'b.jpg', 'val')


def test_cvat_ultralytics_yolo(own):
    draw_image(own / 'images/train/a.jpg')
    write_labels(own / 'labels/train/a.txt', LINE)
    write_labels(own / 'train.txt', 'data/images/train/a.jpg')
    write_labels(own / 'data.yaml', 'names:', '  0: cat', 'path: .', 'train: train.txt')
    one(converted('own'), 'a.jpg', 'train')


def test_cvat_coco(own):
    draw_image(own / 'images/default/a.jpg')
    write_coco(own / 'annotations/instances_default.json')
    one(converted('own'))


def test_cvat_voc(own):
    draw_image(own / 'JPEGImages/a.jpg')
    write_voc(own / 'Annotations/a.xml')
    write_labels(own / 'ImageSets/Main/default.txt', 'a')
    write_labels(own / 'labelmap.txt', '# label:color_rgb:parts:actions', 'cat:250,50,83::')
    one(converted('own'))


def test_cvat_own_format_is_named(own, capsys):
    draw_image(own / 'images/a.jpg')
    (own / 'annotations.xml').write_text('<annotations><image id="0" name="a.jpg"/></annotations>')
    assert_refused('convert own out', capsys, 'annotations.xml', 'COCO 1.0')


@pytest.mark.parametrize('folder', ['', 'set/', 'train/'])
def test_labelimg_yolo(folder, own):
    """Labels and their classes next to the images."""
    draw_image(own / f'{folder}a.jpg')
    draw_image(own / f'{folder}b.jpg', seed=1)
    write_labels(own / f'{folder}a.txt', LINE)
    write_labels(own / f'{folder}b.txt', LINE)
    write_labels(own / f'{folder}classes.txt', 'cat', 'dog')
    split = 'train' if folder == 'train/' else 'all'
    one(converted('own'), 'a.jpg', split)
    write_labels(own / 'data.yaml', f'train: {folder or "."}', 'names: [cat, dog]')
    one(converted('own'), 'a.jpg', 'train')


def test_roboflow_darknet(own):
    for split in ('train', 'valid'):
        draw_image(own / f'{split}/{split}.jpg', seed=len(split))
        write_labels(own / f'{split}/{split}.txt', LINE)
        write_labels(own / f'{split}/_darknet.labels', 'cat')
    write_labels(own / 'README.roboflow.txt', 'Export of cats')
    found = converted('own')
    one(found, 'train.jpg', 'train')
    one(found, 'valid.jpg', 'val')


def test_yolo_of_another_machine(own, capsys):
    """A path that does not exist here, and a test split that nobody downloaded."""
    draw_image(own / 'train/images/a.jpg')
    write_labels(own / 'train/labels/a.txt', LINE)
    write_labels(
        *(own / 'dataset.yaml', 'path: /content/drive/cats', 'train: /content/cats/train/images'),
        *('test: ../test/images', 'nc: 1', "names: ['cat']"),
    )
    one(converted('own'), 'a.jpg', 'train')
    err = capsys.readouterr().err
    assert 'own/train/images is used' in err and 'test' in err


def test_a_yaml_of_another_name_is_found(own, capsys):
    draw_image(own / 'images/a.jpg')
    write_labels(own / 'labels/a.txt', LINE)
    write_labels(own / 'cats.yaml', 'train: images', 'names: [cat]')
    write_labels(own / 'hyp.yaml', 'lr0: 0.01')
    one(converted('own'), 'a.jpg', 'train')
    shutil.copy(own / 'cats.yaml', own / 'dogs.yaml')
    assert_refused('convert own out', capsys, 'cats.yaml', 'dogs.yaml')


@pytest.mark.parametrize(
    'annotations, images',
    [
        ('annotations', 'images'),
        ('Annotation', 'Images'),
        ('xmls', 'img'),
        ('labels', 'JPEGImages'),
        ('annotations', '.'),
        ('train/annotations', 'train/images'),
        ('train', 'train'),
    ],
)
def test_voc_folders(annotations, images, own):
    draw_image(own / images / 'a.jpg')
    write_voc(own / annotations / 'a.xml')
    one(converted('own'), 'a.jpg', 'train' if 'train' in annotations else 'all')


def test_voc_annotations_named_otherwise_than_their_images(own):
    draw_image(own / 'images/a.jpg')
    write_voc(own / 'annotations/0.xml', filename='a.jpg')
    one(converted('own'))


@pytest.mark.parametrize(
    'line', ['a', 'a 1', 'a.jpg', 'JPEGImages/a.jpg', 'D:\\set\\a.jpg', 'images/a.jpg xml/a.xml']
)
@pytest.mark.parametrize('folder', ['ImageSets/Main', 'ImageSets', '', 'splits'])
def test_lists_of_splits(line, folder, own, capsys):
    draw_image(own / 'images/a.jpg')
    draw_image(own / 'images/b.jpg', seed=1)
    draw_image(own / 'images/c.jpg', seed=1)
    for stem in 'abc':
        write_voc(own / f'Annotations/{stem}.xml')
    write_labels(own / folder / 'train.txt', line)
    write_labels(own / folder / 'valid.txt', line.replace('a', 'b', 1) if line == 'a' else 'b')
    found = converted('own')
    assert found['train'].keys() == {'a.jpg'} and found['val'].keys() == {'b.jpg'}
    assert '1 of 3 images are in no list' in capsys.readouterr().err


def test_trainval_alone_names_the_images(own, capsys):
    for i, stem in enumerate('abcd'):
        draw_image(own / f'JPEGImages/{stem}.jpg', seed=i)
        write_voc(own / f'Annotations/{stem}.xml')
    write_labels(own / 'ImageSets/Main/trainval.txt', 'a', 'b')
    assert converted('own')['all'].keys() == {'a.jpg', 'b.jpg'}
    assert 'trainval.txt' in capsys.readouterr().err
    write_labels(own / 'ImageSets/Main/test.txt', 'c')
    found = converted('own')
    assert found['train'].keys() == {'a.jpg', 'b.jpg'} and found['test'].keys() == {'c.jpg'}
    write_labels(own / 'ImageSets/Main/val.txt', 'b')
    found = converted('own')
    assert found['train'].keys() == {'a.jpg'} and found['val'].keys() == {'b.jpg'}


@pytest.mark.parametrize(
    'file, images',
    [
        ('annotations/train.json', 'train'),
        ('annotations/instances_train2014.json', 'train2014'),
        ('annotations/coco_train.json', 'images/train'),
        ('train.json', 'images'),
        ('train.json', 'train/images'),
        ('train/annotations.json', 'train'),
        ('train/labels.json', 'train/data'),
        ('Annotations/train.json', 'Images'),
    ],
)
def test_coco_files_and_folders(file, images, own):
    draw_image(own / images / 'a.jpg')
    write_coco(own / file)
    one(converted('own'), 'a.jpg', 'train')


def test_an_annotation_file_itself_finds_its_images(own):
    draw_image(own / 'train2017/a.jpg')
    write_coco(own / 'annotations/instances_train2017.json')
    one(converted('own/annotations/instances_train2017.json'), 'a.jpg', 'train')


def test_a_dataset_further_down_and_traces_of_archives(own, capsys):
    """As archives unpack, with macOS' files."""
    root = own / 'archive/cats v2'
    draw_image(root / 'images/a.jpg')
    write_labels(root / 'labels/a.txt', LINE)
    write_labels(root / 'data.yaml', 'train: images', 'names: [cat]')
    for path in (
        own / '__MACOSX/archive/cats v2/images/._a.jpg',
        own / '__MACOSX/archive/cats v2/data.yaml',
        root / 'images/._a.jpg',
        root / 'images/.ipynb_checkpoints/a.jpg',
        root / '._data.yaml',
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'Mac OS X')
    one(converted('own'), 'a.jpg', 'train')
    assert 'the dataset is in own/archive/cats v2' in capsys.readouterr().err
    shutil.copytree(root, own / 'archive/cats v3')
    assert_refused('convert own out', capsys, 'cats v2', 'cats v3')


@pytest.mark.parametrize('folder', ['annotations', 'labels'])
def test_json_files_of_other_tools_are_not_taken_for_coco(folder, own, capsys):
    draw_image(own / 'images/a.jpg')
    (own / folder).mkdir()
    for stem in 'ab':
        (own / f'{folder}/{stem}.json').write_text('{"shapes": [], "imagePath": "a.jpg"}')
    assert_refused('convert own out', capsys, 'No JSON file there is COCO')
    write_voc(own / folder / 'a.xml')
    one(converted('own'))


def test_a_damaged_file_next_to_a_coco_file_is_named(own, capsys):
    draw_image(own / 'train/a.jpg')
    write_coco(own / 'annotations/train.json')
    (own / 'annotations/val.json').write_text('{"images": [')
    assert_refused('convert own out', capsys, 'val.json is not complete JSON')


@pytest.mark.parametrize(
    'files, words',
    [
        ([], ['nothing']),
        (['a.jpg', 'b.jpg'], ['2 .jpg', 'no annotations']),
        (['a.jpg', 'labels.csv'], ['CSV']),
        (['set.zip'], ['Unpack']),
        (['images/a.jpg', 'annotations.json'], ['images/', 'JSON']),
    ],
)
def test_what_is_no_dataset_is_described(files, words, own, capsys):
    for name in files:
        if name.endswith('jpg'):
            draw_image(own / name)
        else:
            (own / name).write_text('{}')
    assert_refused('convert own out', capsys, 'own is not a dataset', *words, 'Expected is')


def test_label_files_without_names_are_explained(own, capsys):
    draw_image(own / 'images/a.jpg')
    write_labels(own / 'labels/a.txt', LINE)
    assert_refused('convert own out', capsys, 'classes.txt')


def test_files_that_are_no_dataset(own, capsys):
    for name, word in (('a.zip', 'unpack'), ('a.csv', 'CSV'), ('a.md', 'directory')):
        (own / name).write_text('text')
        assert_refused(f'convert own/{name} out', capsys, name, word)


def test_annotations_that_no_other_tool_needs_are_ignored(own):
    """One image with a box; captions and keypoints next to it."""
    draw_image(own / 'train2017/a.jpg')
    write_coco(own / 'annotations/instances_train2017.json', annotations=[annotation()])
    for name in ('captions_train2017', 'person_keypoints_train2017', 'panoptic_train2017'):
        (own / f'annotations/{name}.json').write_text('{}')
    one(converted('own'), 'a.jpg', 'train')
    assert run('stats own') == 0
    assert not list(Path().glob('*_defects.txt'))
