"""One's own data: formats there and back, the split, the walkthrough, what is refused."""

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import malformed
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from effvim import __main__, cli, mini
from effvim.scenes import CLASSES, box_of, draw_scene


def draw_yolo(root, number, size=64):
    """A YOLO data set; returns name to (class, x1, y1, x2, y2) of its objects."""
    truth = {}
    for kind in ('images', 'labels'):
        (root / kind / 'train').mkdir(parents=True)
    for i in range(number):
        scene = draw_scene(np.random.RandomState([5, i]), size)
        h, w = scene.image.shape[:2]
        Image.fromarray(scene.image).save(root / f'images/train/{i:05}.png')
        lines, truth[f'{i:05}'] = '', []
        for label, mask in zip(scene.labels, scene.masks):
            x, y, bw, bh = box_of(mask)
            lines += f'{label} {(x + bw / 2) / w} {(y + bh / 2) / h} {bw / w} {bh / h}\n'
            truth[f'{i:05}'].append((CLASSES[label], x, y, x + bw, y + bh))
        (root / f'labels/train/{i:05}.txt').write_text(lines)
    (root / 'data.yaml').write_text(f'train: images/train\nnames: {list(CLASSES)}\n')
    return truth


def boxes_of_coco(root):
    """Stem to (class, x1, y1, x2, y2), crowds left out, read with nothing of ours."""
    found = {}
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        stems = {i['id']: i['file_name'].rsplit('.', 1)[0] for i in content['images']}
        found.update({stem: [] for stem in stems.values()})
        for a in content['annotations']:
            x, y, w, h = a['bbox']
            if not a.get('iscrowd'):
                found[stems[a['image_id']]].append((names[a['category_id']], x, y, x + w, y + h))
    return found


def assert_same(found, truth):
    assert found.keys() == truth.keys()
    for stem, objects in truth.items():
        assert [o[0] for o in found[stem]] == [o[0] for o in objects]
        for one, other in zip(found[stem], objects):
            assert np.abs(np.subtract(one[1:], other[1:])).max() <= 1


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return draw_yolo(tmp_path / 'shapes', 12)


def run(line):
    return cli.run(__main__.main, ['data', *shlex.split(line)])


@pytest.mark.parametrize('kind', ['yolo', 'voc'])
def test_there_and_back(kind, shapes):
    assert run('convert shapes coco') == 0
    assert_same(boxes_of_coco(Path('coco')), shapes)
    assert run(f'convert coco other --to {kind}') == 0
    assert run('convert other back') == 0
    assert_same(boxes_of_coco(Path('back')), shapes)


@pytest.mark.parametrize('kind', ['yolo', 'voc'])
def test_real_pictures_there_and_back(kind, coco_root, tmp_path, monkeypatch):
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
    for part in ('train', 'val'):
        content = json.loads(Path(f'a/annotations/instances_{part}2017.json').read_text())
        assert {a['category_id'] for a in content['annotations']} == {1, 2, 3}


def test_walkthrough(shapes, capsys):
    """The commands of the page, as they stand there; training has a test of its own."""
    lines = re.findall(r'^effvim data (.*)$', (ROOT / 'docs/custom_data.md').read_text(), re.M)
    assert len(lines) >= 4
    for line in lines:
        assert run(line) == 0, capsys.readouterr().err
    assert list(Path('seen').rglob('*.png'))


LINES = {'a class beyond the names': '3 .5 .5 .1 .1', 'four numbers': '0 .5 .5 .1',
         'six numbers': '0 .5 .5 .1 .1 .9', 'no number': '0 x .5 .1 .1', 'nan': '0 nan .5 .1 .1',
         'a negative class': '-1 .5 .5 .1 .1', 'a box outside': '0 1.5 .5 .1 .1',
         'a negative side': '0 .5 .5 -.1 .1', 'an odd polygon': '0 .1 .1 .5 .5 .1 .5 .3'}


def assert_refused(line, capsys, *words):
    capsys.readouterr()
    assert run(line) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1
    assert all(word in err for word in words), err
    assert not Path('out').exists() and not list(Path().glob('.out*'))


@pytest.mark.parametrize('name', LINES)
def test_yolo_lines(name, shapes, capsys):
    Path('shapes/labels/train/00000.txt').write_text(LINES[name] + '\n')
    assert_refused('convert shapes out', capsys, '00000')


def test_yolo_polygons_become_outlines(shapes):
    Path('shapes/labels/train/00000.txt').write_text('0 .1 .1 .5 .1 .5 .5\n')
    assert run('convert shapes out') == 0
    content = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    w, h = content['images'][0]['width'], content['images'][0]['height']
    assert content['annotations'][0]['segmentation'][0] == pytest.approx(
        [.1 * w, .1 * h, .5 * w, .1 * h, .5 * w, .5 * h])


BOMB = '<!DOCTYPE a [<!ENTITY b "xxxx"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize('text', [BOMB, FILE, '<annotation>', '', 'text',
                                  '<annotation><object/></annotation>'])
def test_bad_xml(text, shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    Path('voc/Annotations/00000.xml').write_text(text)
    assert_refused('convert voc out', capsys, '00000.xml')


def test_a_voc_box_outside_is_refused_or_cut(shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    path = Path('voc/Annotations/00000.xml')
    tree = ElementTree.parse(path)
    tree.find('.//xmax').text = '500'
    tree.write(path)
    assert_refused('convert voc out', capsys, '00000', '--clip')
    assert run('convert voc out --clip') == 0
    width = Image.open('shapes/images/train/00000.png').width
    assert max(o[3] for o in boxes_of_coco(Path('out'))['00000']) == width


def test_names_and_folders(shapes, capsys):
    Path('shapes').rename('meine Bilder é')
    folder = Path('meine Bilder é/images/train')
    for name in ('a b', 'ü'):
        (folder / name).mkdir()
        (folder / '00000.png').rename(folder / name / '1.png') if name == 'ü' else (
            folder / '00001.png').rename(folder / name / '1.png')
    assert_refused("convert 'meine Bilder é' out", capsys, '2 label files')
    for name, stem in (('a b', '00001'), ('ü', '00000')):
        labels = Path('meine Bilder é/labels/train')
        (labels / name).mkdir()
        (labels / f'{stem}.txt').rename(labels / name / '1.txt')
    assert run("split 'meine Bilder é' out") == 0
    found = boxes_of_coco(Path('out'))
    assert [o[0] for o in found['ü/1']] == [o[0] for o in shapes['00000']]
    assert [o[0] for o in found['a b/1']] == [o[0] for o in shapes['00001']]


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


def test_a_class_without_example_stays_and_is_said(shapes, capsys):
    Path('shapes/data.yaml').write_text(f'train: images/train\nnames: {[*CLASSES, "none"]}\n')
    assert run('split shapes out') == 0
    assert 'no example of none' in capsys.readouterr().out
    assert run('stats out --json') == 0
    found = json.loads(capsys.readouterr().out)
    assert found['parts']['train']['per class']['none'] == 0
    total = sum(part['boxes'] for part in found['parts'].values())
    assert total == sum(map(len, shapes.values()))


def test_training_takes_what_fits_the_data(shapes):
    """Anchors are measured by an IoU of our own words, on the pictures as they are resized."""
    from effvim import anchors, config, data_fit

    assert run('split shapes ready') == 0
    cfg = config.load_config(str(ROOT / 'configs/retinanet_effvim_m1.py'))
    fitted = data_fit.options(cfg, Path('ready'), scratch=False, epochs=None)
    short = data_fit.options(cfg, Path('ready'), scratch=False, epochs=3)
    assert fitted['train_cfg.max_epochs'] > short['train_cfg.max_epochs'] == 3
    assert short['param_scheduler'][1]['end'] == 3
    _, own = anchors.generator(cfg)
    shape = anchors.sides(own)
    boxes = np.array([(5, 5), (40, 44), (300, 20)], float)
    covered = 0
    for w, h in boxes:
        best = max(min(w, a) * min(h, b) / (w * h + a * b - min(w, a) * min(h, b))
                   for a, b in shape)
        covered += best >= 0.5
    assert anchors.coverage(boxes, shape) == covered / 3 and 0 < covered < 3
    small = np.full((9, 2), 9.0)
    better = anchors.best_scale(small, own)
    assert better < own.octave_base_scale
    assert anchors.coverage(small, anchors.sides(own, better)) == 1


def test_data_flags(shapes, capsys):
    from effvim import train

    assert run('split shapes ready') == 0
    for flags in ('--epochs 3', '--data ready --mini', '--data ready --resume',
                  '--data ready --epochs 0', '--data absent'):
        argv = [str(ROOT / 'configs/retinanet_effvim_m1.py'), *flags.split()]
        capsys.readouterr()
        assert cli.run(train.main, argv) == 2
        assert capsys.readouterr().err.startswith('error: ')


NO_MASK = {f'a mask is {value}' for value in (None, [], {})}  # a box alone


@pytest.mark.parametrize('name', [
    name for name in [*malformed.COCO, *malformed.MASKS] if name not in NO_MASK])
def test_malformed_coco(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mini.draw_coco('drawn', num_train=3, num_val=2, size=64)
    {**malformed.COCO, **malformed.MASKS}[name](Path('drawn'))
    assert_refused('convert drawn out', capsys)
