"""Kinds of image files in a dataset: which are read, which are named, which are ignored."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from effvim.images import read_image
from tests.helpers.custom_data import (
    assert_refused,
    converted,
    draw_image,
    run,
    write_coco,
    write_labels,
    write_voc,
)
from tests.helpers.paths import ROOT

LINE = '0 .5 .5 .25 .25'


@pytest.mark.parametrize(
    'name, options',
    [
        ('a.JPG', dict(format='JPEG')),
        ('a.PNG', dict(format='PNG')),
        ('a.bmp', {}),
        ('a.tif', {}),
        ('a.webp', {}),
        ('a.avif', {}),
        ('a.jp2', {}),
        ('a.mpo', dict(format='MPO', save_all=True, append_images=[Image.new('RGB', (64, 48))])),
        ('a.jpg', dict(format='MPO', save_all=True, append_images=[Image.new('RGB', (64, 48))])),
    ],
)
def test_kinds_that_are_read(name, options, own):
    if name.endswith('avif') and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    if name.endswith('jp2') and not features.check('jpg_2000'):
        pytest.skip('this Pillow has no JPEG 2000')
    draw_image(own / 'images' / name, **options)
    write_labels(own / 'labels/a.txt', LINE)
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    assert run('convert own out') == 0
    with Image.open(own / 'images' / name) as image:
        expected = np.asarray(image.convert('RGB')).astype(int)
    assert expected.shape == (48, 64, 3) and expected.std() > 20
    lossless = name.lower().endswith(('png', 'bmp', 'tif'))
    for path in (own / 'images' / name, own.parent / 'out/train2017' / name):
        difference = np.abs(read_image(path) - expected)
        assert difference.max() <= (0 if lossless else 4)  # decoders round differently


def test_kinds_that_are_not_read_are_named(own, capsys):
    draw_image(own / 'images/a.jpg')
    for name in ('b.gif', 'c.HEIC', 'd.heic'):
        (own / 'images' / name).write_bytes(b'GIF89a')
    for stem in 'abc':
        write_labels(own / f'labels/{stem}.txt', LINE)
        write_voc(own / f'Annotations/{stem}.xml')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    for source in ('own', 'voc'):
        assert converted('own').popitem()[1].keys() == {'a.jpg'}
        err = capsys.readouterr().err
        assert '1 .gif, 2 .heic' in err and 'convert them' in err, source
        (own / 'data.yaml').unlink(missing_ok=True)
    shutil.rmtree(own / 'Annotations')
    images = [dict(id=1, file_name='b.gif', width=64, height=48)]
    write_coco(own / 'annotations/train.json', images)
    assert_refused('convert own out', capsys, 'b.gif', 'not read')


@pytest.mark.parametrize('folder', ['.ipynb_checkpoints', '__MACOSX', '.'])
def test_hidden_files_are_ignored(folder, own):
    draw_image(own / 'JPEGImages/a.jpg')
    write_voc(own / 'Annotations/a.xml')
    for kind, end in (('JPEGImages', 'jpg'), ('Annotations', 'xml')):
        path = own / kind / folder / ('._a.' if folder == '.' else 'a-checkpoint.')
        path = path.with_name(path.name + end)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'Mac OS X')
    assert converted('own')['all'].keys() == {'a.jpg'}


def test_prediction_and_examples_ignore_hidden_files(own, tmp_path):
    from effvim.export.exporting import images_in
    from effvim.inference.sources import find_sources
    from effvim.web_page.examples import collect_examples

    draw_image(own / 'a.jpg')
    draw_image(own / 'nested/b.jpg')
    (own / '._a.jpg').write_bytes(b'Mac OS X')
    draw_image(own / '__MACOSX/a.jpg')
    assert [path.name for path in find_sources(['own'], tmp_path / 'out').images] == [
        'a.jpg',
        'b.jpg',
    ]
    assert [path.name for path in collect_examples('own', tmp_path, False)] == ['a.jpg']
    assert images_in('own', '--images') == ['own/a.jpg']


@pytest.mark.parametrize('command', ['stats own', 'browse own seen', 'split own out --val 0.5'])
def test_commands_on_data_import_nothing_slow(command, own):
    """Torch and supervision take longer to import than a small dataset takes to read."""
    for i in range(4):
        draw_image(own / f'images/{i}.jpg', seed=i)
        write_labels(own / f'labels/{i}.txt', LINE)
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    argv = ['data', *command.split()]
    code = (
        f'import sys; from effvim.cli import main; status = main.run({argv}); '
        f'slow = {{"torch", "supervision", "scipy", "mmcv", "mmdet"}} & sys.modules.keys(); '
        f'sys.exit(status or ", ".join(slow) or 0)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={'PYTHONPATH': str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
