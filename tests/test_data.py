"""One's own data: formats there and back, the split, the walkthrough, what is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import malformed
import numpy as np
import pytest
from conftest import ROOT
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from effvim import __main__, cli, config, mini
from effvim import train as train_tool
from effvim.scenes import CLASSES, REGIONS, box_of, draw_scene


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


def draw_masks(root, number, size=64):
    """Pictures with masks, .jpg and .png, a class 255 among them; returns name to mask."""
    truth = {}
    for kind in ('images', 'masks'):
        (root / kind).mkdir(parents=True)
    for i in range(number):
        scene = draw_scene(np.random.RandomState([6, i]), size, style=REGIONS)
        labels = np.zeros(scene.image.shape[:2], np.uint8)
        for label, mask in zip(scene.labels, scene.masks):
            labels[mask] = label + 1
        labels[:3, i] = 255
        Image.fromarray(scene.image).save(root / f'images/{i:05}.{("jpg", "png")[i % 2]}')
        Image.fromarray(labels).save(root / f'masks/{i:05}.png')
        truth[f'{i:05}'] = labels
    (root / 'classes.txt').write_text('\n'.join(['ground', *CLASSES]))
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


@pytest.fixture
def regions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return draw_masks(tmp_path / 'regions', 12)


def run(line):
    return cli.run(__main__.main, ['data', *shlex.split(line)])


def page(command):
    """Lines of the walkthrough that call this command, without its name."""
    text = (ROOT / 'docs/custom_data.md').read_text()
    return re.findall(rf'^effvim {command} (.*)$', text, re.M)


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


def test_walkthrough(shapes, regions, capsys):
    """The commands on data, as they stand there; training has tests of its own."""
    lines = page('data')
    assert len(lines) >= 7
    for line in lines:
        assert run(line) == 0, capsys.readouterr().err
    assert len(list(Path('seen').rglob('*.png'))) == 6
    assert len(list(Path('seen_parts').rglob('*.png'))) == 6


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


def test_a_bad_line_is_named(shapes, capsys):
    Path('shapes/labels/train/00000.txt').write_text('\n0 .5 .5 .1 .1\n\n9 .5 .5 .1 .1\n')
    assert_refused('convert shapes out', capsys, '00000.txt, line 4')


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


@pytest.mark.parametrize('damage, words', [
    (lambda root: (root / 'masks/00003.png').unlink(), ['partner', '00003']),
    (lambda root: (root / 'images/00003.png').unlink(), ['partner', '00003']),
    (lambda root: (root / 'classes.txt').unlink(), ['classes.txt']),
    (lambda root: (root / 'classes.txt').write_text('ground\ndisc\n'), ['value', '0 to 1']),
    (lambda root: Image.new('L', (9, 9)).save(root / 'masks/00003.png'), ['00003', '9 × 9']),
    (lambda root: Image.new('RGB', (64, 64)).save(root / 'masks/00003.png'), ['3 channels']),
    (lambda root: (root / 'masks/00003.png').write_bytes(b'text'), ['00003']),
    (lambda root: (root / 'images/00003.png').rename(root / 'images/00002.png'), ['00002']),
], ids=range(8))
def test_bad_masks(damage, words, regions, capsys):
    damage(Path('regions'))
    assert_refused('split regions out', capsys, *words)


def test_masks_of_two_values_are_not_taken_for_nothing(regions, capsys):
    """255 as foreground, as many tools write it, would train on background alone."""
    for stem, labels in regions.items():
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(
            f'regions/masks/{stem}.png')
    assert_refused('split regions out', capsys, '255', 'disc')


def test_masks_there_and_back(regions, capsys):
    """Every value of every mask, and every pixel of the pictures, of whatever suffix they were."""
    assert run('split regions parts --val 0.25') == 0
    assert run('convert parts again') == 0
    assert_refused('convert parts out --to yolo', capsys, 'masks')
    assert_refused('convert again out --to coco', capsys, 'masks')
    assert Path('again/classes.txt').read_text().split() == ['ground', *CLASSES]
    found = {}
    for part, number in (('training', 9), ('validation', 3)):
        paths = list(Path(f'again/annotations/{part}').iterdir())
        assert len(paths) == number
        found |= {path.stem: np.asarray(Image.open(path)) for path in paths}
        for path in Path(f'again/images/{part}').iterdir():
            assert path.suffix == '.png'
            (source,) = Path('regions/images').glob(f'{path.stem}.*')
            np.testing.assert_array_equal(*map(np.asarray, map(Image.open, (path, source))))
    assert found.keys() == regions.keys()
    for stem, labels in regions.items():
        np.testing.assert_array_equal(found[stem], labels)
    capsys.readouterr()
    assert run('stats again --json') == 0
    parts = json.loads(capsys.readouterr().out)['parts']
    masks = Path('again/annotations/training').iterdir()
    values = np.concatenate([found[path.stem].ravel() for path in masks])
    counted = np.bincount(values[values < 255], minlength=4) / (values < 255).sum()
    assert list(parts['train']['share of pixels'].values()) == pytest.approx(counted.tolist())
    assert parts['train']['pixels that do not count'] == pytest.approx((values == 255).mean())


def roboflow_coco(root):
    for name in ('train', 'valid'):
        (root / name).mkdir(parents=True)
    for part, folder in (('train', 'train'), ('val', 'valid')):
        content = json.loads(Path(f'ready/annotations/instances_{part}2017.json').read_text())
        (root / folder / '_annotations.coco.json').write_text(json.dumps(content))
        for file in Path(f'ready/{part}2017').iterdir():
            file.rename(root / folder / file.name)


def cvat_coco(root):
    assert run('convert shapes all') == 0
    (root / 'annotations').mkdir(parents=True)
    Path('all/annotations/instances_train2017.json').rename(
        root / 'annotations/instances_default.json')
    Path('all/train2017').rename(root / 'images')


def beside(root):  # labelImg; with folders train and valid, Roboflow
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
        for path in (Path(f'shapes/images/train/{i:05}.png'),
                     Path(f'shapes/labels/train/{i:05}.txt')):
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


@pytest.mark.parametrize('layout', [
    roboflow_coco, cvat_coco, beside, label_studio_voc, numbered_voc, linked_yolo, windows_yolo])
def test_layouts_of_other_tools(layout, shapes, capsys):
    assert run('split shapes ready') == 0
    layout(Path('own'))
    capsys.readouterr()
    assert run('convert own out') == 0, capsys.readouterr().err
    found = boxes_of_coco(Path('out'))
    # pictures in the same order, whatever they are called now
    assert_same(dict(enumerate(found[stem] for stem in sorted(found))),
                dict(enumerate(shapes[stem] for stem in sorted(shapes))))


def test_parts_go_by_their_usual_names(shapes, capsys):
    """valid for val, there and back through every format; nothing is left behind."""
    assert run('split shapes ready') == 0
    Path('ready/annotations/instances_val2017.json').rename('ready/annotations/valid.json')
    Path('ready/val2017').rename('ready/valid')
    for kind in ('yolo', 'voc', 'coco'):
        assert run(f'convert ready {kind} --to {kind}') == 0
        assert run(f'convert {kind} {kind}_back') == 0
        parts = [len(json.loads(Path(f'{kind}_back/annotations/instances_{part}2017.json')
                                .read_text())['images']) for part in ('train', 'val')]
        assert parts == [10, 2]
    shutil.copy('ready/annotations/valid.json', 'ready/annotations/val.json')
    assert_refused('convert ready out', capsys, 'second file of the part val')


@pytest.mark.parametrize('change, words', [
    (dict(iscrowd='0'), ['iscrowd']),
    (dict(bbox=[1, 1, float('inf'), 9]), ['bbox']),
])
def test_coco_fields(change, words, shapes, capsys):
    assert run('convert shapes coco') == 0
    path = Path('coco/annotations/instances_train2017.json')
    content = json.loads(path.read_text())
    content['annotations'][1].update(change)
    path.write_text(json.dumps(content))
    assert_refused('convert coco out', capsys, *words)


def test_an_area_of_nothing_is_measured(shapes, capsys):
    """mmdet would leave the object out."""
    assert run('convert shapes coco') == 0
    path = Path('coco/annotations/instances_train2017.json')
    content = json.loads(path.read_text())
    areas = [a['area'] for a in content['annotations']]
    for a in content['annotations']:
        a['area'] = 0
    path.write_text(json.dumps(content))
    assert run('convert coco out') == 0
    found = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    assert [a['area'] for a in found['annotations']] == pytest.approx(areas)
    shutil.copy(path, 'coco/annotations/instances_val2017.json')
    Path('coco/val2017').symlink_to('train2017')
    train_tool.prepare(train_tool.parse([
        str(ROOT / 'configs/retinanet_effvim_m1.py'), '--data', 'coco', '--from-scratch',
        '--work-dir', 'run']))
    assert f'{len(areas)} of {len(areas)} annotations have no area' in capsys.readouterr().err


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


def test_split_merges_with_a_note_and_keeps_to_its_share(shapes, capsys):
    assert run('split shapes first') == 0
    capsys.readouterr()
    assert run('split first second --val 0.25') == 0
    assert 'train, val are merged' in capsys.readouterr().err
    content = json.loads(Path('second/annotations/instances_val2017.json').read_text())
    assert len(content['images']) == 3


def test_names_with_brackets(shapes, capsys):
    Path('shapes/data.yaml').write_text(
        'train: images/train\nnames: ["[/b]", "cat [bold]", "dog [small]"]\n')
    assert run('stats shapes') == 0
    out = capsys.readouterr().out
    assert '[/b]' in out and 'cat [bold]' in out and 'dog [small]' in out


def test_masks_by_part_and_their_list_of_classes(regions, capsys):
    for kind in ('images', 'masks'):
        for i, path in enumerate(sorted(Path('regions', kind).iterdir())):
            target = path.parent / ('Train', 'valid')[i % 2] / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    path = Path('regions/classes.txt')
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes() + b'\r\n\r\n')
    capsys.readouterr()
    assert run('stats regions --json') == 0
    found = json.loads(capsys.readouterr().out)
    assert found['classes'] == ['ground', *CLASSES]
    assert {part: held['pictures'] for part, held in found['parts'].items()} == {
        'train': 6, 'val': 6}
    path.write_text('ground\n\ndisc\ntriangle\ncross\n')
    assert_refused('stats regions', capsys, 'line 2')


def test_pictures_cut_short_are_refused(shapes, capsys):
    for suffix in ('jpg', 'png', 'bmp'):
        path = Path(f'shapes/images/train/00000.{suffix}')
        image = Image.open(next(Path('shapes/images/train').glob('00000.*')))
        image.load()
        next(Path('shapes/images/train').glob('00000.*')).unlink()
        image.convert('RGB').save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[:len(whole) * 2 // 3])
        assert_refused('convert shapes out', capsys, path.name)
        path.write_bytes(whole)


def test_places_of_yolo_pictures(shapes, capsys):
    """As Roboflow and ultralytics write them: ../, several folders, lists of files."""
    yaml = Path('shapes/data.yaml')
    (Path('shapes/images/more')).mkdir()
    (Path('shapes/labels/more')).mkdir()
    for i in (3, 4):
        for kind, end in (('images', 'png'), ('labels', 'txt')):
            file = Path(f'shapes/{kind}/train/{i:05}.{end}')
            file.rename(f'shapes/{kind}/more/{i:05}.{end}')
    Path('shapes/all.txt').write_text(''.join(
        f'./{p.relative_to("shapes")}\n' for p in sorted(Path('shapes/images').rglob('*.png'))))
    for number, where in ((10, '../images/train'), (12, ['images/train', 'images/more']),
                          (12, 'all.txt')):
        yaml.write_text(f'train: {where}\nnames: {list(CLASSES)}\n')
        assert run('convert shapes out') == 0
        found = {stem.rpartition('/')[2]: v for stem, v in boxes_of_coco(Path('out')).items()}
        assert len(found) == number
        assert_same(found, {stem: shapes[stem] for stem in found})
        shutil.rmtree('out')
    Path('shapes/all.txt').write_text('images/train/absent.png\n')
    assert_refused('convert shapes out', capsys, 'absent.png')


def test_what_is_taken_for_granted_is_said(shapes, capsys):
    Path('shapes/labels/train/00003.txt').unlink()
    assert run('convert shapes voc --to voc') == 0
    assert '1 of 12 pictures have no label file' in capsys.readouterr().err
    Path('voc/Annotations/00004.xml').unlink()
    Path('voc/ImageSets/Main/train.txt').write_text('00000\n00001\n')
    Path('voc/ImageSets/Main/val.txt').write_text('00004\n')
    assert run('convert voc out') == 0
    err = capsys.readouterr().err
    assert '1 of 12 pictures have no annotation' in err and '9 of 12 pictures are in no list' in err
    assert boxes_of_coco(Path('out')).keys() == {'00000', '00001', '00004'}


def test_parts_that_share_a_picture_are_refused(shapes, capsys):
    Path('shapes/data.yaml').write_text(
        f'train: images/train\nval: images/train\nnames: {list(CLASSES)}\n')
    assert_refused('convert shapes out', capsys, 'in val and in train')
    Path('shapes/data.yaml').write_text(f'train: images/train\nnames: {list(CLASSES)}\n')
    assert run('convert shapes voc --to voc') == 0
    for lists in ({'train': '00000\n', 'val': '00000\n'}, {'train': '00001\n00001\n'}):
        for part, text in lists.items():
            Path(f'voc/ImageSets/Main/{part}.txt').write_text(text)
        assert_refused('convert voc out', capsys, '0000')


def test_an_annotation_of_another_picture_is_refused(shapes, capsys):
    assert run('convert shapes voc --to voc') == 0
    path = Path('voc/Annotations/00000.xml')
    tree = ElementTree.parse(path)
    tree.find('size/width').text = '500'
    tree.write(path)
    assert_refused('convert voc out', capsys, '00000', '500')
    tree.find('size/width').text = tree.find('size/height').text = '0'  # as some tools write
    tree.write(path)
    assert run('convert voc out') == 0


def test_outlines_are_cut_with_their_boxes(shapes):
    Path('shapes/labels/train/00000.txt').write_text('0 -.5 .1 .5 .1 .5 .5\n')
    assert run('convert shapes out --clip') == 0
    content = json.loads(Path('out/annotations/instances_train2017.json').read_text())
    (entry,) = [a for a in content['annotations'] if a['image_id'] == content['images'][0]['id']]
    x, y = entry['segmentation'][0][::2], entry['segmentation'][0][1::2]
    assert min(x) == 0 and entry['bbox'][0] == 0
    shoelace = abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(3))) / 2
    assert entry['area'] == pytest.approx(shoelace, rel=0.1)  # in whole pixels


def test_training_takes_what_fits_the_data(shapes):
    """Anchors are measured by an IoU of our own words, on the pictures as they are resized."""
    from effvim import anchors, data_fit

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


SMALL = ['--from-scratch', '--epochs', '1', '--cfg-options', *(
    f'{loader}.{option}' for loader in config.LOADERS
    for option in ('num_workers=0', 'persistent_workers=False'))]


def test_walkthrough_trains(shapes, regions, capsys):
    """The page's training, for one epoch: what it leaves can be tested, exported, gone on with."""
    for line in page('data'):
        if line.startswith('split'):
            assert run(line) == 0
    lines = page('train')
    assert {line.split()[0] for line in lines} == {
        'retinanet_effvim_m4', 'rtmdet_effvim_m4', 'semfpn_effvim_m4'}
    for line in lines:
        name, *flags = shlex.split(line.replace('m4', 'm1'))
        assert cli.run(__main__.main, ['train', name, *flags, *SMALL]) == 0, (
            capsys.readouterr().err)
        folder = Path(flags[flags.index('--work-dir') + 1])
        assert 'train_dataloader.batch_size=4' in (folder / 'report/report.html').read_text()
        ckpt = Path((folder / 'last_checkpoint').read_text())
        assert cli.run(__main__.main, ['test', name, str(ckpt), '--out', 'again.json']) == 0, (
            capsys.readouterr().err)
        metrics, again = (json.loads(p.read_text()) for p in (
            folder / 'metrics.json', Path('again.json')))
        assert again == metrics and set(metrics) & {'coco/bbox_mAP', 'mIoU'}
        if 'semfpn' in name:  # of the detectors nothing is above the threshold after an epoch
            export = ['export', name, str(ckpt), '--out', f'{folder}.onnx']
            assert cli.run(__main__.main, export) == 0, capsys.readouterr().err
        capsys.readouterr()
        resume = ['train', name, '--work-dir', str(folder), '--resume']
        assert cli.run(__main__.main, resume) == 2
        assert 'finished' in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_learns(tmp_path, monkeypatch, capfd):
    """1,600 drawn pictures, four epochs, minutes on two cores: box mAP of 0.25 and more."""
    monkeypatch.chdir(tmp_path)
    draw_yolo(Path('shapes'), 1600, size=160)
    assert run(page('data')[0]) == 0
    line = page('train')[0].replace('m4', 'm1')
    assert cli.run(__main__.main, ['train', *shlex.split(line), '--from-scratch', '--amp',
                                   '--epochs', '4']) == 0
    assert json.loads(Path('run/metrics.json').read_text())['coco/bbox_mAP'] >= 0.25


@pytest.mark.parametrize('path', [
    *sorted((ROOT / 'configs').glob('*.py')), *sorted((ROOT / 'configs/gallery').glob('*.py')),
], ids=lambda p: p.stem)
def test_every_config_takes_data(path, tmp_path, monkeypatch):
    """Small pictures are nowhere enlarged to the size of COCO's, and the last epochs are plain."""
    monkeypatch.chdir(tmp_path)
    if config.is_segmentor(config.load_config(str(path))):
        draw_masks(Path('own'), 6)
    else:
        mini.draw_coco('own', num_train=6, num_val=2, size=64)
    source = 'own'
    if Path('own/masks').exists():
        assert run('split own ready') == 0
        source = 'ready'
    cfg, _ = train_tool.prepare(train_tool.parse([
        str(path), '--data', source, '--from-scratch', '--work-dir', 'run']))
    sizes = [step[key] for _, step in config.every_step(cfg)
             for key in ('scale', 'scales', 'crop_size', 'size', 'img_scale') if key in step]
    assert sizes and max(np.max(size) for size in sizes) <= 512
    assert cfg.param_scheduler[1]['end'] == max(
        cfg.train_cfg.get('max_epochs') or 0, cfg.train_cfg.get('max_iters') or 0)
    config.import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    data = DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_=cfg.default_scope))
    assert max(data[0]['inputs'].shape) <= 512  # every step takes its new size
    for hook in cfg.get('custom_hooks', []):
        if hook.type == 'PipelineSwitchHook':
            assert 0 < hook.switch_epoch < cfg.train_cfg.max_epochs
            assert max(hook.switch_pipeline[2]['scale']) <= 512


def test_dry_run(shapes, capsys):
    """Two halves of a rehearsal, on five small pictures, whose last batch is one of them."""
    for i in range(6, 12):
        for path in (Path(f'shapes/images/train/{i:05}.png'),
                     Path(f'shapes/labels/train/{i:05}.txt')):
            path.unlink()
    assert run('split shapes ready') == 0
    assert cli.run(__main__.main, [
        'train', 'retinanet_effvim_m1', '--data', 'ready', '--work-dir', 'run', '--dry-run', *SMALL,
    ]) == 0, capsys.readouterr().err
    assert not Path('run').exists()


def test_data_of_the_wrong_kind(shapes, regions, capsys):
    assert run('split shapes boxes') == 0
    assert run('split regions masks') == 0
    for name, source, words in (
            ('semfpn', 'boxes', 'segmentor'), ('retinanet', 'masks', 'segmentors'),
            ('mask_rcnn', 'boxes', 'outlines'), ('retinanet', 'shapes', 'effvim data split'),
            ('retinanet', 'boxes --auto-scale-lr', '--auto-scale-lr')):
        capsys.readouterr()
        assert cli.run(__main__.main, [
            'train', f'{name}_effvim_m1', '--data', *source.split(), '--from-scratch']) == 2
        assert words in capsys.readouterr().err


def test_data_flags(shapes, capsys):
    assert run('split shapes ready') == 0
    for flags in ('--epochs 3', '--data ready --mini', '--data ready --resume',
                  '--data ready --epochs 0', '--data absent'):
        argv = [str(ROOT / 'configs/retinanet_effvim_m1.py'), *flags.split()]
        capsys.readouterr()
        assert cli.run(train_tool.main, argv) == 2
        assert capsys.readouterr().err.startswith('error: ')


NO_MASK = {f'a mask is {value}' for value in (None, [], {})}  # a box alone


@pytest.mark.parametrize('name', [
    name for name in [*malformed.COCO, *malformed.MASKS] if name not in NO_MASK])
def test_malformed_coco(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mini.draw_coco('drawn', num_train=3, num_val=2, size=64)
    {**malformed.COCO, **malformed.MASKS}[name](Path('drawn'))
    assert_refused('convert drawn out', capsys)
    mask_rcnn = str(ROOT / 'configs/mask_rcnn_effvim_m1.py')
    assert cli.run(__main__.main, [
        'train', mask_rcnn, '--data', 'drawn', '--from-scratch', '--work-dir', 'out']) == 2
    assert capsys.readouterr().err.startswith('error: ')
