"""Real images, all 80 classes, overfitted from scratch: training really trains."""

import json
import os
from pathlib import Path

import pytest

from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

EPOCHS = 100


def first_annotated(coco_root: Path, root: Path, count: int) -> None:
    """Make the first `count` annotated training images by id a training and validation set."""
    content = json.loads((coco_root / 'annotations/instances_train2017.json').read_text())
    ids = sorted({a['image_id'] for a in content['annotations']})[:count]
    content['images'] = [i for i in content['images'] if i['id'] in ids]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
        os.symlink(coco_root / 'train2017', root / split)


@pytest.mark.slow
def test_eight_images_are_overfitted(coco_root, tmp_path, capsys):
    first_annotated(coco_root, tmp_path / 'coco', 8)
    config = str(ROOT / 'configs/retinanet_effvim_m4.py')
    assert (
        run_command(
            'train',
            [
                config,
                '--from-scratch',
                '--data-root',
                str(tmp_path / 'coco'),
                '--work-dir',
                str(tmp_path / 'run'),
                '--cfg-options',
                'train_dataloader.dataset.pipeline.2.scale=(320,320)',
                'train_dataloader.dataset.pipeline.3.prob=0.0',
                'val_dataloader.dataset.pipeline.1.scale=(320,320)',
                'test_dataloader.dataset.pipeline.1.scale=(320,320)',
                'train_dataloader.batch_size=4',
                f'train_cfg.max_epochs={EPOCHS}',
                f'train_cfg.val_interval={EPOCHS}',
                f'default_hooks.checkpoint.interval={EPOCHS}',
                'param_scheduler.0.end=20',
                f'param_scheduler.1.milestones=[{EPOCHS * 3 // 4},{EPOCHS * 9 // 10}]',
                f'param_scheduler.1.end={EPOCHS}',
            ],
        )
        == 0
    )
    assert (
        run_command(
            'test',
            [
                config,
                str(tmp_path / f'run/epoch_{EPOCHS}.pth'),
                '--work-dir',
                str(tmp_path / 'test'),
                '--out',
                str(tmp_path / 'metrics.json'),
            ],
        )
        == 0
    )
    numbers = json.loads((tmp_path / 'metrics.json').read_text())
    with capsys.disabled():
        print({k: round(v, 4) for k, v in numbers.items()})
    assert numbers['coco/bbox_mAP_50'] >= 0.5
