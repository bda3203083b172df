"""Synthetic datasets in the formats that people have, and calls of `effvim data`."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from effvim.cli import main
from effvim.datasets.scenes import CLASSES, REGIONS, box_of, draw_scene
from tests.helpers.paths import ROOT


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
