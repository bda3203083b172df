"""Runs on the samples of COCO and ADE20K, small enough for a test."""

from tests.helpers import narrow
from tests.helpers.cli import run_command

SMALL_RETINANET = [
    *narrow.RETINANET,
    'train_dataloader.dataset.pipeline.2.scale=(128,96)',
    'val_dataloader.dataset.pipeline.1.scale=(128,96)',
    'test_dataloader.dataset.pipeline.1.scale=(128,96)',
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=1',
    'train_cfg.max_epochs=1',
    # keep the predictions of an untrained network, so that there is something to count
    'model.test_cfg.score_thr=0.0',
]
SMALL_MASK_RCNN = [
    *narrow.MASK_RCNN,
    'train_dataloader.dataset.pipeline.2.scale=(128,96)',
    'val_dataloader.dataset.pipeline.1.scale=(128,96)',
    'test_dataloader.dataset.pipeline.1.scale=(128,96)',
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=1',
    'train_cfg.max_epochs=1',
    # the recipe's 512 RoIs an image take seconds on a CPU
    'model.train_cfg.rcnn.sampler.num=16',
    'model.train_cfg.rpn_proposal.max_per_img=100',
    'model.test_cfg.rpn.max_per_img=100',
    # keep the predictions of an untrained network, so that there is something to count
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rcnn.max_per_img=30',
]
SMALL_SEMFPN = [
    'train_dataloader.dataset.pipeline.2.scale=(256,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(512,128)',
    'test_dataloader.dataset.pipeline.1.scale=(512,128)',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=1',
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=2',
]


def call(command, *argv):
    """Run `effvim COMMAND ARGV…`, which must succeed."""
    assert run_command(command, [str(a) for a in argv]) == 0
