"""Mistakes in your own data end in one line, and leave nothing behind."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from effvim.datasets import synthetic
from tests.helpers import malformed
from tests.helpers.cli import run_command
from tests.helpers.custom_data import (
    assert_refused,
    boxes_of_coco,
    run,
)

LINES = {
    'a class beyond the names': '3 .5 .5 .1 .1',
    'four numbers': '0 .5 .5 .1',
    'six numbers': '0 .5 .5 .1 .1 .9',
    'no number': '0 x .5 .1 .1',
    'nan': '0 nan .5 .1 .1',
    'a negative class': '-1 .5 .5 .1 .1',
    'a box outside': '0 1.5 .5 .1 .1',
    'a negative side': '0 .5 .5 -.1 .1',
    'an odd polygon': '0 .1 .1 .5 .5 .1 .5 .3',
}


@pytest.mark.parametrize('name', LINES)
def test_yolo_lines(name, shapes, capsys):
    Path('shapes/labels/train/00000.txt').write_text(LINES[name] + '\n')
    assert_refused('convert shapes out', capsys, '00000')


def test_a_bad_line_is_named(shapes, capsys):
    Path('shapes/labels/train/00000.txt').write_text('\n0 .5 .5 .1 .1\n\n9 .5 .5 .1 .1\n')
    assert_refused('convert shapes out', capsys, '00000.txt, line 4')


def set_text(path, **texts):
    """Change elements of an XML file, the first of each name."""
    tree = ElementTree.parse(path)
    for tag, text in texts.items():
        tree.find(f'.//{tag}').text = text
    tree.write(path)


BOMB = '<!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    'text', [BOMB, FILE, '<annotation>', '', 'text', '<annotation><object/></annotation>']
)
def test_bad_xml(text, shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    Path('voc/Annotations/00000.xml').write_text(text)
    assert_refused('convert voc out', capsys, '00000.xml')


def test_a_voc_box_outside_is_refused_or_clipped(shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    set_text('voc/Annotations/00000.xml', xmax='500')
    assert_refused('convert voc out', capsys, '00000', '--clip')
    assert run('convert voc out --clip') == 0
    width = Image.open('shapes/images/train/00000.png').width
    assert max(o[3] for o in boxes_of_coco(Path('out'))['00000']) == width


def test_what_is_refused(shapes, capsys):
    Path('there').mkdir()
    capsys.readouterr()
    assert run('convert shapes there') == 2 and 'there exists' in capsys.readouterr().err
    assert_refused('split shapes out --val 0', capsys, '--val')
    assert_refused('convert absent out', capsys, 'absent')
    yaml = Path('shapes/data.yaml')
    text = yaml.read_text()
    Path('shapes/images/none').mkdir()
    yaml.write_text(text + 'val: images/none\n')
    assert_refused('convert shapes out', capsys, 'val')
    yaml.write_text('train: images/train\nnames: !!python/object/apply:os.system ["touch ran"]')
    assert_refused('convert shapes out', capsys, 'data.yaml')
    assert not Path('ran').exists()
    yaml.write_text(text)
    Path('shapes/images/train/00000.png').write_bytes(b'text')
    assert_refused('convert shapes out', capsys, '00000.png')


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(iscrowd='0'), ['iscrowd']),
        (dict(bbox=[1, 1, float('inf'), 9]), ['bbox']),
    ],
)
def test_coco_fields(change, words, shapes, capsys):
    assert run('convert shapes coco') == 0
    path = Path('coco/annotations/instances_train2017.json')
    content = json.loads(path.read_text())
    content['annotations'][1].update(change)
    path.write_text(json.dumps(content))
    assert_refused('convert coco out', capsys, *words)


def test_more_that_is_refused(shapes, capsys):
    yaml, text = Path('shapes/data.yaml'), Path('shapes/data.yaml').read_text()
    yaml.write_text(text + 'kpt_shape: [3, 2]\n')
    assert_refused('convert shapes out', capsys, 'keypoints')
    yaml.write_text(text.replace('images/train', 'images/absent'))
    assert_refused('convert shapes out', capsys, 'data.yaml', 'images/absent')
    yaml.write_text(text.replace('images/train', 'all.txt'))
    Path('shapes/all.txt').write_text('\n')
    assert_refused('convert shapes out', capsys, 'all.txt')
    Path('shapes/all.txt').write_text('images/train/00001.png\nimages/train/00001.png\n')
    Path('shapes/labels').rename('shapes/away')
    (Path('shapes/labels/train')).mkdir(parents=True)
    assert_refused('convert shapes out', capsys, '00001')
    shutil.rmtree('shapes/labels')
    Path('shapes/away').rename('shapes/labels')
    yaml.write_text(text)
    assert_refused('split shapes out --val nan', capsys, '--val')
    assert_refused(f'convert shapes {"x" * 300}', capsys)
    assert_refused(f'convert {"x" * 300} out', capsys)


def test_truncated_images_are_refused(shapes, capsys):
    for suffix in ('jpg', 'png', 'bmp'):
        path = Path(f'shapes/images/train/00000.{suffix}')
        image = Image.open(next(Path('shapes/images/train').glob('00000.*')))
        image.load()
        next(Path('shapes/images/train').glob('00000.*')).unlink()
        image.convert('RGB').save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        assert_refused('convert shapes out', capsys, path.name)
        path.write_bytes(whole)


def test_splits_that_share_an_image_are_refused(shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    Path('voc/ImageSets/Main/train.txt').write_text('00000\n00001\n')
    Path('voc/ImageSets/Main/val.txt').write_text('00000\n00002\n')
    assert_refused('convert voc out', capsys, '00000', 'in val and in train')
    assert run('split voc out --val 0.3') == 0  # which merges them
    assert len(boxes_of_coco(Path('out'))) == 3


def test_an_annotation_of_another_image_is_refused(shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    set_text('voc/Annotations/00000.xml', width='500')
    assert_refused('convert voc out', capsys, '00000', '500')
    set_text('voc/Annotations/00000.xml', width='0', height='0')  # as some tools write
    assert run('convert voc out') == 0


NO_MASK = {f'a mask is {value}' for value in (None, [], {})}  # a box alone

# What training needs and conversion computes.
COMPUTED = {
    'no images.width',
    'no annotations.id',
    'no annotations.bbox',
    'no annotations.area',
    'annotations.bbox is None',
    'annotations.bbox is []',
    'categories.name is a number',
    'two annotations of one id',
    *(name for name in malformed.COCO if name.startswith(('annotations.area', 'images.height'))),
} - {"images.height is '160'"}  # which is the height of another image


@pytest.mark.parametrize(
    'name', [name for name in [*malformed.COCO, *malformed.MASKS] if name not in NO_MASK]
)
def test_malformed_coco(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('drawn', num_train=3, num_val=2, size=64)
    {**malformed.COCO, **malformed.MASKS}[name](Path('drawn'))
    if name in COMPUTED:
        assert run('convert drawn out') == 0
        shutil.rmtree('out')
        capsys.readouterr()
    else:
        assert_refused('convert drawn out', capsys)
    argv = ['mask_rcnn_effvim_m1', '--data', 'drawn', '--from-scratch', '--work-dir', 'out']
    assert run_command('train', argv) == 2
    assert capsys.readouterr().err.startswith('error: ')


def test_training_on_what_is_not_prepared_says_how(shapes, capsys):
    assert run('convert shapes only_train') == 0
    for source in ('shapes', 'only_train'):
        capsys.readouterr()
        argv = ['retinanet_effvim_m1', '--data', source, '--from-scratch', '--work-dir', 'run']
        assert run_command('train', argv) == 2
        assert f'"effvim data split {source} ready"' in capsys.readouterr().err
