"""Images with masks: there and back, their splits and classes, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvim.datasets.scenes import CLASSES
from tests.helpers.custom_data import (
    assert_refused,
    run,
)


def recolour(path):
    labels = np.asarray(Image.open(path))
    Image.fromarray(np.stack([labels, labels * 3, labels * 5], -1)).save(path)


@pytest.mark.parametrize(
    'damage, words',
    [
        (lambda root: (root / 'masks/00003.png').unlink(), ['partner', '00003']),
        (lambda root: (root / 'images/00003.png').unlink(), ['partner', '00003']),
        (lambda root: (root / 'classes.txt').unlink(), ['classes.txt']),
        (lambda root: (root / 'classes.txt').write_text('ground\ndisc\n'), ['value', '0 to 1']),
        (
            lambda root: (root / 'classes.txt').write_bytes(b'gr\xfcn\nrot\n'),
            ['is not text in UTF-8'],
        ),
        (lambda root: Image.new('L', (9, 9)).save(root / 'masks/00003.png'), ['00003', '9 × 9']),
        (lambda root: recolour(root / 'masks/00003.png'), ['3 channels', '--colors']),
        (lambda root: (root / 'masks/00003.png').write_bytes(b'text'), ['00003']),
        (lambda root: (root / 'images/00003.png').rename(root / 'images/00002.png'), ['00002']),
    ],
    ids=range(9),
)
def test_bad_masks(damage, words, regions, capsys):
    damage(Path('regions'))
    assert_refused('split regions out', capsys, *words)


def test_masks_of_two_values_are_not_taken_for_nothing(regions, capsys):
    """255 as foreground, as many tools write it, would train on background alone."""
    for stem, labels in regions.items():
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(
            f'regions/masks/{stem}.png'
        )
    assert_refused('split regions out', capsys, '255', 'disc')


def test_masks_there_and_back(regions, capsys):
    """Every value of every mask, and every pixel of the images, whatever their suffix was."""
    assert run('split regions ready --val 0.25') == 0
    assert run('convert ready again') == 0
    assert_refused('convert ready out --to yolo', capsys, 'masks')
    assert_refused('convert again out --to coco', capsys, 'masks')
    assert Path('again/classes.txt').read_text().split() == ['ground', *CLASSES]
    masks = {}
    for split, number in (('training', 9), ('validation', 3)):
        paths = list(Path(f'again/annotations/{split}').iterdir())
        assert len(paths) == number
        masks |= {path.stem: np.asarray(Image.open(path)) for path in paths}
        for path in Path(f'again/images/{split}').iterdir():
            assert path.suffix == '.png'
            (source,) = Path('regions/images').glob(f'{path.stem}.*')
            np.testing.assert_array_equal(*map(np.asarray, map(Image.open, (path, source))))
    assert masks.keys() == regions.keys()
    for stem, labels in regions.items():
        np.testing.assert_array_equal(masks[stem], labels)
    capsys.readouterr()
    assert run('stats again --json') == 0
    splits = json.loads(capsys.readouterr().out)['splits']
    paths = Path('again/annotations/training').iterdir()
    values = np.concatenate([masks[path.stem].ravel() for path in paths])
    counted = np.bincount(values[values < 255], minlength=4) / (values < 255).sum()
    assert list(splits['train']['fraction of pixels'].values()) == pytest.approx(counted.tolist())
    assert splits['train']['ignored pixels'] == pytest.approx((values == 255).mean())


def test_masks_by_split_and_their_list_of_classes(regions, capsys):
    for kind in ('images', 'masks'):
        for i, path in enumerate(sorted(Path('regions', kind).iterdir())):
            target = path.parent / ('Train', 'valid')[i % 2] / path.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    path = Path('regions/classes.txt')
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes() + b'\r\n\r\n')
    capsys.readouterr()
    assert run('stats regions --json') == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary['classes'] == ['ground', *CLASSES]
    assert {split: numbers['images'] for split, numbers in summary['splits'].items()} == {
        'train': 6,
        'val': 6,
    }
    path.write_text('ground\n\ndisc\ntriangle\ncross\n')
    assert_refused('stats regions', capsys, 'line 2')
