"""Fields of COCO files as tools write them: what is known is completed and said."""

import json

import pytest

from tests.helpers.cli import run_command
from tests.helpers.custom_data import (
    annotation,
    assert_refused,
    content_of,
    converted,
    draw_image,
    run,
    write_coco,
)


def noted(capsys, *words):
    err = capsys.readouterr().err
    assert all(word in err for word in words), err


@pytest.mark.parametrize('area', [..., None, 'large', float('nan'), 0, -1])
def test_the_area_is_computed(area, coco, capsys):
    coco(annotations=[annotation(area=area)])
    (converted,) = content_of('own')['annotations']
    assert converted['area'] == pytest.approx(300, abs=30)
    if area not in (0, -1):
        noted(capsys, 'no usable area')


@pytest.mark.parametrize('size', [{}, dict(width=None, height=None), dict(width=0, height=0)])
def test_the_size_is_read_from_the_image(size, coco, capsys):
    coco(images=[dict(id=1, file_name='a.jpg', **size)])
    (image,) = content_of('own')['images']
    assert (image['width'], image['height']) == (64, 48)
    noted(capsys, '1 images have no usable width and height', 'a.jpg')


def test_a_size_as_text_or_float_is_compared(coco, capsys):
    coco(images=[dict(id=1, file_name='a.jpg', width='64', height=48.0)])
    assert content_of('own')['images'][0]['width'] == 64
    coco(images=[dict(id=1, file_name='a.jpg', width='640', height='480')])
    assert_refused('convert own out', capsys, '64 × 48', '640 × 480')


def test_numbers_as_floats(coco):
    coco(
        images=[dict(id=1.0, file_name='./a.jpg', width=64, height=48)],
        annotations=[annotation(id=1.0, image_id=1.0, category_id=1.0, iscrowd=0.0)],
        categories=[dict(id=1.0, name='cat')],
    )
    assert converted('own')['train'] == {'a.jpg': [('cat', 10, 10, 20, 15)]}


@pytest.mark.parametrize(
    'fields, words',
    [
        (dict(image_id='1'), ['annotations[0].image_id', 'whole number']),
        (dict(category_id=1.5), ['annotations[0].category_id', 'whole number']),
        (dict(bbox=['1', '1', '5', '5']), ['annotations[0].bbox']),
        (dict(category_id=7), ['annotation 1', 'category 7']),
        (dict(image_id=7), ['annotation 1', 'image 7']),
    ],
)
def test_what_would_be_another_object_is_refused(fields, words, coco, capsys):
    coco(annotations=[annotation(**fields)])
    assert_refused('convert own out', capsys, *words)


@pytest.mark.parametrize(
    'fields',
    [
        dict(category_id=None),
        dict(category_id=7),
        dict(bbox=[1, 1, 5, float('nan')]),
        dict(bbox=..., segmentation=...),
    ],
)
def test_an_image_with_a_defective_annotation_is_skipped(fields, coco, capsys):
    """Without the annotation its object would be trained as background."""
    coco(
        images=[dict(id=i, file_name=f'{n}.jpg', width=64, height=48) for i, n in enumerate('ab')],
        annotations=[annotation(**fields), annotation(id=2, image_id=0)],
    )
    flags = '--skip-invalid --max-invalid 0.5'
    assert converted('own', flags)['train'] == {'a.jpg': [('cat', 10, 10, 20, 15)]}
    noted(capsys, 'skipped 1 images', '1 annotations cannot be read')


@pytest.mark.parametrize('box', [..., None, []])
def test_the_box_is_computed_from_the_outline(box, coco, capsys):
    coco(annotations=[annotation(bbox=box)])
    assert converted('own')['train']['a.jpg'] == [('cat', 10, 10, 20, 15)]
    noted(capsys, 'no box')
    coco(annotations=[annotation(bbox=box, segmentation=[])])
    assert_refused('convert own out', capsys, 'bbox')


def test_a_flat_outline_is_one_polygon(coco):
    outline = [10, 10, 30, 10, 30, 25, 10, 25]
    coco(annotations=[annotation(segmentation=outline)])
    assert content_of('own')['annotations'][0]['segmentation'] == [outline]


def test_lists_as_objects(coco, own):
    coco()
    file = own / 'annotations/train.json'
    content = json.loads(file.read_text())
    for key in ('images', 'annotations'):
        content[key] = {str(item['id']): item for item in content[key]}
    file.write_text(json.dumps(content))
    assert converted('own')['train'] == {'a.jpg': [('cat', 10, 10, 20, 15)]}


def test_ids_of_merged_files(coco, capsys):
    """Annotations get new ids; images and categories would be confused."""
    coco(annotations=[annotation(), annotation(bbox=[1, 1, 5, 5]), annotation(id=...)])
    ids = [a['id'] for a in content_of('own')['annotations']]
    assert len(ids) == len(set(ids)) == 2  # the third is a copy of the first
    noted(capsys, 'without an id of their own', 'copies of another one')
    coco(images=[dict(id=1, file_name=f'{n}.jpg', width=64, height=48) for n in 'ab'])
    assert_refused('convert own out', capsys, 'id 1', 'more than once in images')


def test_an_image_listed_twice_has_all_its_annotations(coco, capsys):
    coco(
        images=[dict(id=i, file_name='a.jpg', width=64, height=48) for i in (1, 2)],
        annotations=[annotation(), annotation(id=2, image_id=2, bbox=[1, 1, 5, 5])],
    )
    assert len(converted('own')['train']['a.jpg']) == 2
    noted(capsys, '1 images are listed more than once')


def test_names_with_blanks_and_numbers(coco):
    coco(categories=[dict(id=1, name=' cat '), dict(id=2, name=7)])
    assert [c['name'] for c in content_of('own')['categories']] == ['cat', '7']


def test_one_name_of_two_categories_is_one_class(coco, capsys):
    coco(
        categories=[dict(id=1, name='cat'), dict(id=2, name='cat ')],
        annotations=[annotation(), annotation(id=2, category_id=2, bbox=[1, 1, 5, 5])],
    )
    assert [name for name, *_ in converted('own')['train']['a.jpg']] == ['cat', 'cat']
    noted(capsys, 'same name more than once', 'cat')


def test_a_category_that_is_only_a_group_is_no_class(coco, capsys):
    groups = [
        dict(id=0, name='fishes', supercategory='none'),
        dict(id=1, name='pike', supercategory='fishes'),
        dict(id=2, name='roach', supercategory='fishes'),
    ]
    coco(categories=groups)
    assert [c['name'] for c in content_of('own')['categories']] == ['pike', 'roach']
    noted(capsys, 'only the group of others', 'fishes')
    coco(categories=groups, annotations=[annotation(), annotation(id=2, category_id=0)])
    assert [c['name'] for c in content_of('own')['categories']] == ['fishes', 'pike', 'roach']


def test_categories_are_matched_by_name(coco, own, capsys):
    coco(categories=[dict(id=1, name='cat'), dict(id=2, name='dog')])
    draw_image(own / 'val/c.jpg', seed=2)
    write_coco(
        own / 'annotations/val.json',
        [dict(id=1, file_name='c.jpg', width=64, height=48)],
        [annotation(), annotation(id=2, category_id=3, bbox=[1, 1, 5, 5])],
        [dict(id=1, name='dog'), dict(id=2, name='cat'), dict(id=3, name='cow')],
    )
    found = converted('own')
    assert [name for name, *_ in found['train']['a.jpg']] == ['cat']
    assert [name for name, *_ in found['val']['c.jpg']] == ['dog', 'cow']
    noted(capsys, 'categories that', 'cow')
    write_coco(
        own / 'annotations/val.json',
        [dict(id=1, file_name='c.jpg', width=64, height=48)],
        categories=[dict(id=1, name='dog'), dict(id=2, name='cat')],
    )
    assert [name for name, *_ in converted('own')['val']['c.jpg']] == ['dog']
    noted(capsys, 'another order')


def test_the_size_before_the_camera_turned_the_image(coco, own, capsys):
    """Boxes in it would lie elsewhere; those of the upright image are right."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    draw_image(own / 'train/a.jpg', exif=exif.tobytes())
    coco(images=[dict(id=1, file_name='a.jpg', width=48, height=64)])
    assert run('stats own') == 0
    coco()
    assert_refused('convert own out', capsys, 'turned', 'EXIF')


def test_training_says_what_computes_a_missing_area(coco, own, capsys):
    for split in ('train', 'val'):
        draw_image(own / f'{split}2017/a.jpg')
        write_coco(
            own / f'annotations/instances_{split}2017.json', annotations=[annotation(area=...)]
        )
    argv = ['retinanet_effvim_m1', '--data', 'own', '--from-scratch', '--work-dir', 'run']
    assert run_command('train', argv) == 2
    assert 'effvim data convert computes what is missing' in capsys.readouterr().err
