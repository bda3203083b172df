"""Every mistake in ADE20K's folders: one line, status 2, before mmseg's models are imported."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.errors import UserError
from effvim.config.reading import import_plugins, load_config
from effvim.datasets import ade, synthetic
from effvim.images import image_size
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.usefixtures('empty_directory')

CONFIG = str(ROOT / 'configs/semfpn_effvim_m1.py')
SPLITS = ('training', 'validation')


def error(capsys, root, path=CONFIG):
    """What training from scratch says of the data."""
    loaded = 'mmseg.models' in sys.modules
    status = run_command('train', [str(path), '--from-scratch', '--data-root', str(root)])
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith('error: '), captured
    assert ('mmseg.models' in sys.modules) == loaded
    return lines[0]


def first(root, kind, split='training'):
    return sorted((root / kind / split).iterdir())[0]


def respelt(path, change):
    """Apply `change` to the labels in an annotation."""
    labels = np.array(Image.open(path))
    Image.fromarray(change(labels)).save(path)


def test_data_root_absent(capsys):
    message = error(capsys, 'nowhere')
    for part in ('nowhere', 'images/training', 'annotations/validation', '--mini', '--data-root'):
        assert part in message


@pytest.mark.parametrize('kind', ['images', 'annotations'])
@pytest.mark.parametrize('split', SPLITS)
def test_folder_absent_or_empty(capsys, ade_copy, kind, split):
    shutil.rmtree(ade_copy / kind / split)
    assert f'{kind}/{split} not found' in error(capsys, ade_copy)
    (ade_copy / kind / split).mkdir()
    assert f'{kind}/{split} holds no' in error(capsys, ade_copy)


@pytest.mark.parametrize('kind, other', [('images', 'image'), ('annotations', 'label map')])
def test_counterparts_missing(capsys, ade_copy, kind, other):
    gone = sorted((ade_copy / kind / 'training').iterdir())[:6]
    for path in gone:
        path.unlink()
    message = error(capsys, ade_copy)
    assert '6 of 8' in message and f'no {other} ' in message and '…' in message
    assert all(path.stem in message for path in gone[:5]) and gone[5].stem not in message


def test_root_of_the_other_task(capsys, ade_copy, tmp_path):
    coco = synthetic.draw_coco(tmp_path / 'coco', num_train=1, num_val=1)
    message = error(capsys, coco)
    assert 'COCO' in message and 'images/training' in message
    message = error(capsys, ade_copy, path=ROOT / 'configs/retinanet_effvim_m1.py')
    assert 'ADE20K' in message and 'instances_train2017.json' in message


@pytest.mark.parametrize('value', [151, 200, 255])
def test_values_without_a_class(capsys, ade_copy, value):
    path = first(ade_copy, 'annotations', 'validation')
    respelt(
        path,
        lambda labels: np.where(np.arange(labels.shape[1]) == 3, value, labels).astype(np.uint8),
    )
    message = error(capsys, ade_copy)
    assert str(path) in message and str(value) in message and '1 to 150' in message


def test_sizes_differ(capsys, ade_copy):
    path = first(ade_copy, 'annotations')
    height, width = np.array(Image.open(path)).shape
    respelt(path, lambda labels: labels[:-1])
    message = error(capsys, ade_copy)
    assert path.name in message and f'{width} × {height - 1}' in message
    assert f'{width} × {height}:' in message


def test_a_rotated_image_has_the_size_it_is_loaded_with(ade_copy):
    """Cameras store portraits lying on their side and say so; OpenCV stands them up."""
    path, labels = first(ade_copy, 'images'), first(ade_copy, 'annotations')
    upright = Image.open(path)
    rotated = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 270 degrees
    rotated.save(path, exif=exif)
    assert Image.open(path).size == upright.size[::-1] != upright.size
    assert image_size(path) == upright.size
    ade.check_labels(labels, image_size(path), 4, True)


@pytest.mark.parametrize('how', ['truncated', 'rubbish', 'empty', 'coloured', 'sixteen bits'])
def test_a_file_that_is_not_a_label_map(capsys, ade_copy, how):
    path = first(ade_copy, 'annotations')
    whole = path.read_bytes()
    if how == 'coloured':
        Image.open(path).convert('RGB').save(path)
    elif how == 'sixteen bits':  # mmseg would take the value modulo 256
        respelt(path, lambda labels: labels.astype(np.uint16) + 256)
    else:
        path.write_bytes({'truncated': whole[:-60], 'rubbish': b'x' * 999, 'empty': b''}[how])
    assert str(path) in error(capsys, ade_copy)


def test_a_file_that_is_not_an_image(capsys, ade_copy):
    path = first(ade_copy, 'images')
    path.write_bytes(b'x' * 999)
    assert str(path) in error(capsys, ade_copy)


def test_single_files_are_found_when_they_are_loaded(capsys, ade_copy, monkeypatch):
    """Beyond the few that are read before: in the pipeline, also in a worker process."""
    monkeypatch.setattr(ade, 'NUM_PROBED', 1)
    path = sorted((ade_copy / 'annotations/validation').iterdir())[1]
    respelt(path, lambda labels: labels + 150)
    torch.save({'state_dict': weights(), 'meta': {}}, 'c.pth')
    status = run_command(
        'test',
        [
            CONFIG,
            'c.pth',
            '--data-root',
            str(ade_copy),
            '--cfg-options',
            'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        ],
    )
    err = capsys.readouterr().err.strip()
    assert status == 2 and err.startswith('error: label map') and str(path) in err
    assert err.count('\n') == 0


def weights():
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    cfg = load_config(CONFIG)
    import_plugins(cfg)
    init_default_scope('mmseg')
    return MODELS.build(cfg.model).state_dict()


@pytest.mark.parametrize(
    'lines, parts',
    [
        ("type='BaseSegDataset'", ['BaseSegDataset', 'metainfo']),
        ("type='NoSuchDataset'", ['NoSuchDataset', 'BaseSegDataset']),
        ("metainfo=dict(classes=('wall', 'zebra crossing'))", ['zebra crossing', 'ADE20KDataset']),
    ],
)
def test_classes_of_the_config(capsys, ade_copy, lines, parts):
    Path('own.py').write_text(
        f"_base_ = '{CONFIG}'\ntrain_dataloader = dict(dataset=dict({lines}))\n"
    )
    message = error(capsys, ade_copy, path='own.py')
    assert all(part in message for part in parts), message


def test_datasets_of_different_classes(capsys, ade_copy):
    Path('own.py').write_text(
        f"_base_ = '{CONFIG}'\nval_dataloader = dict(dataset=dict("
        "metainfo=dict(classes=('wall', 'sky'))))\n"
    )
    assert 'different classes' in error(capsys, ade_copy, path='own.py')


def test_some_of_the_150_classes(ade_copy):
    """A subset is trained; labels on disk still count to 150."""
    data = dict(
        data_root=str(ade_copy),
        type='ADE20KDataset',
        metainfo=dict(classes=('sky', 'wall')),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
    )
    assert ade.check(dataset_config(data)) == ('sky', 'wall')
    respelt(first(ade_copy, 'annotations'), lambda labels: labels + 100)
    ade.check(dataset_config(data))


def dataset_config(settings):
    from mmengine.config import ConfigDict

    return ConfigDict(settings)


@pytest.mark.parametrize(
    'reduced, legal, wrong', [(True, [0, 1, 4], [5, 255]), (False, [0, 3, 255], [4, 254])]
)
def test_legal_values(tmp_path, reduced, legal, wrong):
    """With and without a label that means "none"."""
    path = tmp_path / 'a.png'
    for value in legal + wrong:
        Image.fromarray(np.full((3, 5), value, np.uint8)).save(path)
        if value in wrong:
            with pytest.raises(UserError, match=f'value {value}: '):
                ade.check_labels(path, (5, 3), 4, reduced)
        else:
            ade.check_labels(path, (5, 3), 4, reduced)


def test_checkpoint_of_other_classes(capsys, ade_copy):
    from backbone import EfficientViM

    state = {f'backbone.{n}': v for n, v in EfficientViM('m1').state_dict().items()}
    torch.save(
        {'state_dict': state, 'meta': {'dataset_meta': {'classes': ('cat', 'dog')}}}, 'c.pth'
    )
    status = run_command('test', [CONFIG, 'c.pth', '--data-root', str(ade_copy)])
    message = capsys.readouterr().err
    assert status == 2 and 'cat' in message and 'wall' in message and 'load_from' in message


def test_mini_keeps_a_directory_of_somebody_else(capsys):
    path = Path('data/mini-ade/precious.txt')
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    assert run_command('train', [CONFIG, '--mini']) == 2
    assert 'data/mini-ade' in capsys.readouterr().err and path.read_text() == 'mine'
    assert os.listdir('data') == ['mini-ade']


def test_a_list_of_images_and_suffixes_that_pair_nothing(ade_copy):
    dataset = load_config(CONFIG).train_dataloader.dataset
    end = first(ade_copy, 'annotations').name[-5:]  # a digit and the suffix
    dataset.update(data_root=str(ade_copy), ann_file='train.txt', seg_map_suffix=end)
    with pytest.raises(UserError, match='no image .* has a label map of the same name.*img_suffix'):
        ade.check(dataset)
