"""Synthetic datasets, and the configs of mmdet and mmseg that ours are compared with."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from effvim.datasets import synthetic
from tests.helpers import recipe


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
