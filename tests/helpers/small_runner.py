"""A Runner of any config on tiny synthetic images, and one training step of its model."""

import math
from pathlib import Path

from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import LOADERS
from effvim.engine.runner import Runner
from tests.helpers.cli import prepared_training


def small_runner(config: Path, roots: dict[str, Path], work_dir: Path) -> Runner:
    """Build a config's Runner on synthetic images of 160 pixels, in batches of two.

    Models that pad to multiples of 64 have to pad these.

    roots: a synthetic dataset by type of dataset.
    """
    kind = load_config(str(config)).train_dataloader.dataset.type
    drawn_as_bmp = (
        []
        if kind == 'CocoDataset'
        else [
            f'{loader}.dataset.{key}=.bmp'
            for loader in LOADERS
            for key in ('img_suffix', 'seg_map_suffix')
        ]
    )
    cfg, spec = prepared_training(
        [
            str(config),
            '--data-root',
            str(roots[kind]),
            '--work-dir',
            str(work_dir),
            '--cfg-options',
            'model.backbone.init_cfg=None',
            *drawn_as_bmp,
        ]
    )
    for loader in LOADERS:
        # mmseg tests one size at a time
        size = 2 if kind == 'CocoDataset' or loader == 'train_dataloader' else 1
        cfg[loader].update(batch_size=size, num_workers=0, persistent_workers=False)
        for step in cfg[loader].dataset.pipeline:
            for key in ('scale', 'crop_size', 'size', 'img_scale'):
                if key in step:
                    step[key] = (160, 160)
    import_plugins(cfg)
    return Runner(cfg, spec)


def backward_once(runner: Runner) -> None:
    """Compute the losses of one training batch, which must be finite, and their gradients."""
    model = runner.model.train()
    data = model.data_preprocessor(next(iter(runner.train_dataloader)), training=True)
    loss, losses = model.parse_losses(model(**data, mode='loss'))
    assert len(losses) >= 2 and all(math.isfinite(float(v)) for v in losses.values()), losses
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())


def evaluate_once(runner: Runner) -> None:
    """Evaluate; every metric must be finite."""
    metrics = runner.test()
    assert metrics and all(math.isfinite(float(v)) for v in metrics.values()), metrics
