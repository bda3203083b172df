"""Every file in configs/: one step of training, one evaluation, as published but small."""

import math

import pytest
import torch

from effvim.cli import train
from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import LOADERS
from effvim.datasets import synthetic
from effvim.engine import runner
from effvim.engine import training as train_tool
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Drawn data in the layout of each kind of data set."""
    folder = tmp_path_factory.mktemp('drawn')
    return {
        'CocoDataset': synthetic.draw_coco(folder / 'coco', num_train=4, num_val=2),
        'ADE20KDataset': synthetic.draw_ade(folder / 'ade', num_train=4, num_val=2),
    }


def built(path, roots, folder):
    """A Runner of a config on drawn pictures of 128 pixels, in batches of two."""
    kind = load_config(str(path)).train_dataloader.dataset.type
    drawn_as_bmp = (
        []
        if kind == 'CocoDataset'
        else [
            f'{loader}.dataset.{key}=.bmp'
            for loader in LOADERS
            for key in ('img_suffix', 'seg_map_suffix')
        ]
    )
    cfg, about = train_tool.prepare(
        train.parse(
            [
                str(path),
                '--data-root',
                str(roots[kind]),
                '--work-dir',
                str(folder),
                '--cfg-options',
                'model.backbone.init_cfg=None',
                *drawn_as_bmp,
            ]
        )
    )
    for loader in LOADERS:
        # mmseg tests one size at a time
        size = 2 if kind == 'CocoDataset' or loader == 'train_dataloader' else 1
        cfg[loader].update(batch_size=size, num_workers=0, persistent_workers=False)
        for step in cfg[loader].dataset.pipeline:
            for key in ('scale', 'crop_size', 'size', 'img_scale'):
                if key in step:
                    step[key] = (128, 128)
    import_plugins(cfg)
    return runner.Runner(cfg, about)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_one_step_of_everything(path, roots, tmp_path):
    running = built(path, roots, tmp_path)
    model = running.model.train()

    data = model.data_preprocessor(next(iter(running.train_dataloader)), training=True)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert len(parts) >= 2 and all(math.isfinite(float(v)) for v in parts.values()), parts
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    assert [n for n, p in model.named_parameters() if n not in trained] == [
        n for n in dict(model.named_parameters()) if n.endswith('mixer.A')
    ]

    metrics = running.test()
    assert metrics and all(math.isfinite(float(v)) for v in metrics.values()), metrics
