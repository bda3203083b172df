"""Synthetic datasets in the formats that people have, and calls of `effvim data`."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from effvim.cli import main
from effvim.config.structure import LOADERS
from effvim.datasets.scenes import CLASSES, REGIONS, box_of, draw_scene
from tests.helpers.paths import ROOT

NO_WORKERS = [  # options of a config
    f'{loader}.{option}'
    for loader in LOADERS
    for option in ('num_workers=0', 'persistent_workers=False')
]


def draw_yolo(root, number, size=64):
    """Draw a YOLO dataset; return name to (class, x1, y1, x2, y2) of its objects."""
    objects = {}
    for kind in ('images', 'labels'):
        (root / kind / 'train').mkdir(parents=True)
    for i in range(number):
        scene = draw_scene(np.random.RandomState([5, i]), size)
        h, w = scene.image.shape[:2]
        Image.fromarray(scene.image).save(root / f'images/train/{i:05}.png')
        lines, objects[f'{i:05}'] = '', []
        for label, mask in zip(scene.labels, scene.masks):
            x, y, bw, bh = box_of(mask)
            lines += f'{label} {(x + bw / 2) / w} {(y + bh / 2) / h} {bw / w} {bh / h}\n'
            objects[f'{i:05}'].append((CLASSES[label], x, y, x + bw, y + bh))
        (root / f'labels/train/{i:05}.txt').write_text(lines)
    (root / 'data.yaml').write_text(f'train: images/train\nnames: {list(CLASSES)}\n')
    return objects


def draw_masks(root, number, size=64):
    """Draw images, .jpg and .png, with masks, some of whose pixels are 255; return name to mask."""
    masks = {}
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
        masks[f'{i:05}'] = labels
    (root / 'classes.txt').write_text('\n'.join(['ground', *CLASSES]))
    return masks


def boxes_of_coco(root):
    """Stem to (class, x1, y1, x2, y2), without crowds, read with nothing of ours."""
    boxes = {}
    for path in root.glob('annotations/*.json'):
        content = json.loads(path.read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        stems = {i['id']: i['file_name'].rsplit('.', 1)[0] for i in content['images']}
        boxes.update({stem: [] for stem in stems.values()})
        for a in content['annotations']:
            x, y, w, h = a['bbox']
            if not a.get('iscrowd'):
                boxes[stems[a['image_id']]].append((names[a['category_id']], x, y, x + w, y + h))
    return boxes


def assert_same(boxes, expected):
    """Within a pixel."""
    assert boxes.keys() == expected.keys()
    for stem, objects in expected.items():
        assert [o[0] for o in boxes[stem]] == [o[0] for o in objects]
        for one, other in zip(boxes[stem], objects):
            assert np.abs(np.subtract(one[1:], other[1:])).max() <= 1


def draw_image(path, size=(64, 48), seed=0, **options):
    """An image of noise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_coco(path, images=None, annotations=None, categories=None):
    """A COCO file, by default of one image, one box with its outline, and one class."""
    content = dict(
        images=images or [dict(id=1, file_name='a.jpg', width=64, height=48)],
        annotations=[annotation()] if annotations is None else annotations,
        categories=categories or [dict(id=1, name='cat')],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def annotation(**fields):
    """The annotation of `write_coco`; a field that is ... is absent."""
    outline = [[10, 10, 30, 10, 30, 25, 10, 25]]
    usual = dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 20, 15], area=300, iscrowd=0)
    usual |= dict(segmentation=outline) | fields
    return {key: value for key, value in usual.items() if value is not ...}


def write_labels(path, *lines):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def write_voc(path, name='cat', box=(11, 11, 30, 25), filename='a.jpg', size=(64, 48)):
    """A VOC file with one object."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    path.write_text(
        f'<annotation><filename>{filename}</filename><size><width>{size[0]}</width>'
        f'<height>{size[1]}</height></size><object><name>{name}</name><bndbox>{corners}</bndbox>'
        f'</object></annotation>'
    )


def converted(source, flags=''):
    """Convert to COCO and read it with nothing of ours: split to file name to (class, box)."""
    assert run(f'convert {source} converted {flags}') == 0
    splits = {}
    for path in sorted(Path('converted/annotations').glob('*.json')):
        content = json.loads(path.read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        found = splits[path.stem.removeprefix('instances_').removesuffix('2017')] = {}
        for image in content['images']:
            found[image['file_name']] = [
                (names[a['category_id']], *a['bbox'])
                for a in content['annotations']
                if a['image_id'] == image['id']
            ]
    shutil.rmtree('converted')
    return splits


def content_of(source, flags=''):
    """The only COCO file that a dataset is converted to."""
    assert run(f'convert {source} converted {flags}') == 0
    (path,) = Path('converted/annotations').glob('*.json')
    content = json.loads(path.read_text())
    shutil.rmtree('converted')
    return content


def stats(source, capsys, flags=''):
    """What `effvim data stats --json` prints, and the notes."""
    capsys.readouterr()
    status = run(f'stats {source} --json {flags}')
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out), err


def run(line):
    return main.run(['data', *shlex.split(line)])


def page(command):
    """Lines of the page on custom data that call this command, without its name."""
    text = (ROOT / 'docs/custom_data.md').read_text()
    return re.findall(rf'^effvim {command} (.*)$', text, re.M)


def assert_refused(line, capsys, *words):
    capsys.readouterr()
    assert run(line) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1
    assert all(word in err for word in words), err
    assert not Path('out').exists() and not list(Path().glob('.out*'))
