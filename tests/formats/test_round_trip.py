"""Your own data: formats there and back, the split, statistics, the page of the docs."""

import json
import shutil
from pathlib import Path

import pytest

from effvim.datasets.scenes import CLASSES
from tests.helpers.cli import prepared_training
from tests.helpers.custom_data import (
    assert_refused,
    assert_same,
    boxes_of_coco,
    page,
    run,
)


@pytest.mark.parametrize('kind', ['yolo', 'voc'])
def test_there_and_back(kind, shapes):
    assert run('convert shapes coco') == 0
    assert_same(boxes_of_coco(Path('coco')), shapes)
    assert run(f'convert coco other --to {kind}') == 0
    assert run('convert other back') == 0
    assert_same(boxes_of_coco(Path('back')), shapes)


@pytest.mark.parametrize('kind', ['yolo', 'voc'])
def test_real_images_there_and_back(kind, coco_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(f'convert {coco_root} other --to {kind}') == 0
    assert run('convert other back') == 0
    assert_same(boxes_of_coco(Path('back')), boxes_of_coco(coco_root))


def test_split_is_decided_by_the_seed_and_keeps_classes(shapes):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        assert run(f'split shapes {name} --val 0.3 --seed {seed}') == 0
    texts = [Path(n, 'annotations/instances_val2017.json').read_text() for n in 'abc']
    assert texts[0] == texts[1] != texts[2]
    assert_same(boxes_of_coco(Path('a')), shapes)
    for split in ('train', 'val'):
        content = json.loads(Path(f'a/annotations/instances_{split}2017.json').read_text())
        assert {a['category_id'] for a in content['annotations']} == {1, 2, 3}


def test_walkthrough(shapes, regions, capsys):
    """The commands on data, as they stand there; training has tests of its own."""
    lines = page('data')
    assert len(lines) >= 7
    for line in lines:
        assert run(line) == 0, capsys.readouterr().err
    assert len(list(Path('seen').rglob('*.png'))) == 6
    assert len(list(Path('seen_masks').rglob('*.png'))) == 6


def test_yolo_polygons_become_segmentations(shapes):
    Path('shapes/labels/train/00000.txt').write_text('0 .1 .1 .5 .1 .5 .5\n')
    assert run('convert shapes out') == 0
    content = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    w, h = content['images'][0]['width'], content['images'][0]['height']
    assert content['annotations'][0]['segmentation'][0] == pytest.approx(
        [0.1 * w, 0.1 * h, 0.5 * w, 0.1 * h, 0.5 * w, 0.5 * h]
    )


def test_names_and_folders(shapes, capsys):
    Path('shapes').rename('meine Bilder é')
    folder = Path('meine Bilder é/images/train')
    for name in ('a b', 'ü'):
        (folder / name).mkdir()
        (folder / '00000.png').rename(folder / name / '1.png') if name == 'ü' else (
            folder / '00001.png'
        ).rename(folder / name / '1.png')
    assert_refused("convert 'meine Bilder é' out", capsys, '2 annotation files have no image')
    for name, stem in (('a b', '00001'), ('ü', '00000')):
        labels = Path('meine Bilder é/labels/train')
        (labels / name).mkdir()
        (labels / f'{stem}.txt').rename(labels / name / '1.txt')
    assert run("split 'meine Bilder é' out") == 0
    boxes = boxes_of_coco(Path('out'))
    assert [o[0] for o in boxes['ü/1']] == [o[0] for o in shapes['00000']]
    assert [o[0] for o in boxes['a b/1']] == [o[0] for o in shapes['00001']]


def test_a_class_without_instance_stays_with_a_note(shapes, capsys):
    Path('shapes/data.yaml').write_text(f'train: images/train\nnames: {[*CLASSES, "none"]}\n')
    assert run('split shapes out') == 0
    assert 'no instance of none' in ''.join(capsys.readouterr())
    assert run('stats out --json') == 0
    splits = json.loads(capsys.readouterr().out)['splits']
    assert splits['train']['per class']['none'] == 0
    total = sum(split['boxes'] for split in splits.values())
    assert total == sum(map(len, shapes.values()))


def test_an_area_of_nothing_is_measured(shapes, capsys):
    """mmdet would ignore the object."""
    assert run('convert shapes coco') == 0
    path = Path('coco/annotations/instances_train2017.json')
    content = json.loads(path.read_text())
    areas = [a['area'] for a in content['annotations']]
    for a in content['annotations']:
        a['area'] = 0
    path.write_text(json.dumps(content))
    assert run('convert coco out') == 0
    converted = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    assert [a['area'] for a in converted['annotations']] == pytest.approx(areas)
    shutil.copy(path, 'coco/annotations/instances_val2017.json')
    Path('coco/val2017').symlink_to('train2017')
    prepared_training(
        ['retinanet_effvim_m1', '--data', 'coco', '--from-scratch', '--work-dir', 'run']
    )
    assert f'{len(areas)} of {len(areas)} annotations have no area' in capsys.readouterr().err


def test_split_merges_with_a_note_and_keeps_to_its_fraction(shapes, capsys):
    assert run('split shapes first') == 0
    capsys.readouterr()
    assert run('split first second --val 0.25') == 0
    assert 'train, val are merged' in capsys.readouterr().err
    content = json.loads(Path('second/annotations/instances_val2017.json').read_text())
    assert len(content['images']) == 3


def test_names_with_brackets(shapes, capsys):
    Path('shapes/data.yaml').write_text(
        'train: images/train\nnames: ["[/b]", "cat [bold]", "dog [small]"]\n'
    )
    assert run('stats shapes') == 0
    out = capsys.readouterr().out
    assert '[/b]' in out and 'cat [bold]' in out and 'dog [small]' in out


def test_segmentations_are_clipped_with_their_boxes(shapes):
    Path('shapes/labels/train/00000.txt').write_text('0 -.5 .1 .5 .1 .5 .5\n')
    assert run('convert shapes out --clip') == 0
    content = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    (annotation,) = [
        a for a in content['annotations'] if a['image_id'] == content['images'][0]['id']
    ]
    x, y = annotation['segmentation'][0][::2], annotation['segmentation'][0][1::2]
    assert min(x) == 0 and annotation['bbox'][0] == 0
    shoelace = abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(3))) / 2
    assert annotation['area'] == pytest.approx(shoelace, rel=0.1)  # in whole pixels
