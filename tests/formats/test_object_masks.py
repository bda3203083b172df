"""One mask file for each object, as microscopy's datasets have them, becomes instances."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from tests.helpers.custom_data import assert_refused, content_of, converted, draw_image, run
from tests.helpers.paths import DATA


def object_mask(path, x, y, side=8, size=(64, 48), value=255, mode='L'):
    """A mask file of a square; returns its pixels."""
    inside = np.zeros(size[::-1], np.uint8)
    inside[y : y + side, x : x + side] = value
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(inside).convert(mode).save(path)
    return inside > 0


def nuclei(root):
    """Two images of two objects, each image in a directory of its own."""
    for i, name in enumerate(('f3a', '07c')):
        draw_image(root / name / f'images/{name}.png', seed=i)
        for j in range(2):
            object_mask(root / name / f'masks/{j}.png', 5 + 20 * j, 7)


def test_masks_become_instances(own, capsys):
    nuclei(own)
    content = content_of('own')
    assert 'object' in capsys.readouterr().err
    assert [c['name'] for c in content['categories']] == ['object']
    assert len(content['annotations']) == 4
    boxes = sorted(a['bbox'] for a in content['annotations'] if a['image_id'] == 1)
    assert boxes == [[5, 7, 8, 8], [25, 7, 8, 8]]
    for annotation in content['annotations']:
        x, y, w, h = map(int, annotation['bbox'])
        mask = rle.decode(annotation['segmentation'])
        assert mask.shape == (48, 64) and mask[y : y + h, x : x + w].all() and mask.sum() == 64
        assert annotation['area'] == 64 and annotation['iscrowd'] == 0


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGB', 'RGBA', 'I;16'])
def test_modes_of_masks(mode, own):
    draw_image(own / 'a/images/a.png')
    object_mask(own / 'a/masks/0.png', 5, 7, mode='L' if mode == 'I;16' else mode)
    if mode == 'I;16':
        inside = np.asarray(Image.open(own / 'a/masks/0.png')).astype(np.uint16) * 257
        Image.fromarray(inside).save(own / 'a/masks/0.png')
    assert converted('own')['all'] == {'a.png': [('object', 5, 7, 8, 8)]}


def test_splits_classes_and_a_folder_of_masks_for_each_image(own):
    nuclei(own / 'stage1_train')
    (own / 'stage1_train/classes.txt').write_text('nucleus\n')
    assert converted('own')['all']['f3a.png'][0][0] == 'nucleus'  # one directory down
    shutil.rmtree(own / 'stage1_train')
    for split in ('train', 'val'):
        draw_image(own / split / 'x1' / 'images/a.png')
        object_mask(own / split / 'x1' / 'masks/leaf/0.png', 5, 7)
        object_mask(own / split / 'x1' / 'masks/stem/0.png', 25, 7)
    found = converted('own')
    assert found.keys() == {'train', 'val'}
    ((_, objects),) = found['val'].items()
    assert [name for name, *_ in objects] == ['leaf', 'stem']
    shutil.rmtree(own)
    for stem in 'ab':
        draw_image(own / f'images/{stem}.jpg', seed=ord(stem))
        object_mask(own / f'masks/{stem}/0.png', 5, 7)
    assert converted('own')['all'].keys() == {'a.jpg', 'b.jpg'}


def test_what_is_wrong_with_masks(own, capsys):
    nuclei(own)
    object_mask(own / 'f3a/masks/2.png', 0, 0, value=0)
    assert run('stats own') == 0
    assert '1 masks of objects have no pixel' in capsys.readouterr().err
    object_mask(own / 'f3a/masks/3.png', 0, 0, size=(32, 32))
    assert_refused('convert own out', capsys, '3.png', '32 × 32', '64 × 48')
    (own / 'f3a/masks/3.png').write_bytes(b'no image')
    assert_refused('convert own out', capsys, '3.png', 'cannot be read')
    (own / 'classes.txt').write_text('a\nb\n')
    assert_refused('convert own out', capsys, 'classes.txt', 'directories')


def test_real_nuclei():
    """A count that the files themselves give."""
    root = DATA / 'real/nuclei'
    if not root.is_dir():
        pytest.skip(f'no real nuclei in {DATA}; set EFFVIM_DATA')
    from effvim.formats.detect import read
    from effvim.formats.findings import Findings

    findings = Findings()
    dataset = read(root, findings)
    assert not findings.defects
    assert len(dataset.images()) == len([p for p in root.iterdir() if p.is_dir()])
    instances = [i for image in dataset.images() for i in image.instances]
    assert len(instances) == len(list(root.glob('*/masks/*.png')))
    assert json.dumps(instances[0].segmentation)  # as COCO writes it
