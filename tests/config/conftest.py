"""Synthetic datasets, and the configs of mmdet and mmseg that ours are compared with."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from backbone import EfficientViM
from effvim.datasets import synthetic
from tests.helpers import old_run, recipe
from tests.helpers.cli import prepared_training


@pytest.fixture(scope='session')
def roots(tmp_path_factory):
    """A synthetic dataset by type of dataset."""
    folder = tmp_path_factory.mktemp('synthetic')
    return {
        'CocoDataset': synthetic.draw_coco(folder / 'coco', num_train=4, num_val=2),
        'ADE20KDataset': synthetic.draw_ade(folder / 'ade', num_train=4, num_val=2),
    }


@pytest.fixture(scope='module')
def standard_retinanet():
    """mmdet's own RetinaNet."""
    import mmdet

    packaged = Path(mmdet.__file__).parent / '.mim/configs/retinanet/retinanet_r50_fpn_1x_coco.py'
    return Config.fromfile(packaged)


@pytest.fixture(scope='module')
def standard_semfpn():
    """mmseg's own Semantic FPN."""
    import mmseg

    packaged = Path(mmseg.__file__).parent / '.mim/configs/sem_fpn/'
    cfg = Config.fromfile(packaged / 'fpn_r50_4xb4-160k_ade20k-512x512.py')
    cfg.model.pretrained = None
    return cfg


@pytest.fixture(scope='module')
def known_sizes(tmp_path_factory):
    """A synthetic dataset whose first images have the sizes and the colour of helpers/recipe.py."""
    return recipe.draw_images_of_known_size(tmp_path_factory.mktemp('recipe') / 'coco')


@pytest.fixture(scope='module', params=recipe.CONFIGS)
def runner(request, known_sizes, tmp_path_factory):
    """The Runner of each detector's M4 config."""
    torch.manual_seed(0)
    return recipe.recipe_runner(request.param, known_sizes, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=old_run.RUNS)
def old_kind(request, tmp_path, monkeypatch):
    """Detector or segmentor, in a directory with a dataset as it was in training."""
    monkeypatch.chdir(tmp_path)
    draw = synthetic.draw_ade
    monkeypatch.setattr(  # for --mini, which draws a thousand images
        synthetic, 'draw_ade', lambda root, **_: draw(root, num_train=4, num_val=3, size=96)
    )
    if request.param == 'detector':
        synthetic.draw_coco('data/coco', num_train=4, num_val=3, size=96)
    else:
        synthetic.draw_ade('data/mini-ade')
    return request.param


@pytest.fixture(params=['with config', 'without config'])
def old_model(request, old_kind):
    """The arguments that name a model of version 0.1."""
    config, checkpoint = (str(old_run.OLD_RUN / path) for path in old_run.RUNS[old_kind])
    return [config, checkpoint] if request.param == 'with config' else [checkpoint]


@pytest.fixture(scope='module')
def synthetic_data(tmp_path_factory):
    """The dataset of --mini, drawn once."""
    folder = tmp_path_factory.mktemp('mini')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepared_training(['retinanet_effvim_m1', '--work-dir', 'run', '--mini'])
    return folder / 'data'


@pytest.fixture
def trained_run(synthetic_data, tmp_path, monkeypatch):
    """Writes what a training run leaves behind: a copy of its config, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path('data').symlink_to(synthetic_data)

    def run(*argv, **changes):
        cfg, spec = prepared_training(['retinanet_effvim_m1', '--work-dir', 'run', *argv])
        cfg.merge_from_dict(changes)
        cfg.dump('run/retinanet_effvim_m1.py')
        state = EfficientViM('m1').state_dict()
        content = {
            'state_dict': {f'backbone.{name}': value for name, value in state.items()},
            'meta': {'effvim': spec.to_dict(), 'seed': 0},
        }
        torch.save(content, 'run/epoch_1.pth')
        return Path('run/epoch_1.pth')

    return run


@pytest.fixture(scope='session')
def eighty_classes(tmp_path_factory):
    """A synthetic dataset with as many categories as COCO."""
    root = synthetic.draw_coco(tmp_path_factory.mktemp('eighty') / 'coco', num_train=4, num_val=2)
    for path in (root / 'annotations').iterdir():
        content = json.loads(path.read_text())
        listed = content['categories']
        listed += [dict(id=i, name=f'class {i}') for i in range(len(listed) + 1, 81)]
        path.write_text(json.dumps(content))
    return root


@pytest.fixture
def recipe_run(roots, eighty_classes, tmp_path):
    """The config and spec of a training run."""

    def prepare(name, *argv, root=None, options=()):
        options = ['model.backbone.init_cfg=None', *options]
        root = root or (roots['ADE20KDataset'] if 'semfpn' in name else eighty_classes)
        if name.startswith('semfpn'):
            options += [
                f'{loader}_dataloader.dataset.{key}=.bmp'
                for loader in ('train', 'val', 'test')
                for key in ('img_suffix', 'seg_map_suffix')
            ]
        argv = (*argv, '--data-root', str(root))
        folder = str(tmp_path / 'run')
        return prepared_training([name, *argv, '--work-dir', folder, '--cfg-options', *options])

    return prepare
