"""Presets: what `--from-scratch` and `--mini` change in any config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.editing import set_data_root
from effvim.config.precision import amp_is_faster, use_amp
from effvim.config.structure import (
    EVALUATORS,
    LOADERS,
    dataset_configs,
    every_step,
    is_segmentor,
    pad_divisor,
)
from effvim.datasets import synthetic

GROUP_NORM = dict(type='GN', num_groups=32, requires_grad=True)
DETECTION_ROOT = Path('data/mini-coco')
SEGMENTATION_ROOT = Path('data/mini-ade')


def apply_presets(cfg: Config, names: Sequence[str], draw: bool = True) -> None:
    """Apply presets by name, in a fixed order; `mini` includes `from_scratch`.

    Args:
        cfg: changed in place.
        names: 'from_scratch', 'mini'.
        draw: with `mini`, create the synthetic dataset on disk where it does not exist.
    """
    if 'from_scratch' in names or 'mini' in names:
        use_from_scratch(cfg)
    if 'mini' in names:
        if draw:
            draw_synthetic_dataset(cfg)
        (use_synthetic_segmentation if is_segmentor(cfg) else use_synthetic_detection)(cfg)


def draw_synthetic_dataset(cfg: Config) -> None:
    """Create the synthetic dataset of `mini` on disk, where it does not exist.

    Raises:
        UserError: its directory cannot be written, or holds something else.
    """
    segmentor = is_segmentor(cfg)
    root = SEGMENTATION_ROOT if segmentor else DETECTION_ROOT
    try:
        if segmentor:
            synthetic.draw_ade(root, num_train=1024, num_val=128, size=160)
        else:
            synthetic.draw_coco(root, num_train=2560, num_val=128, size=160)
    except OSError as error:  # a directory of somebody else's among them
        raise UserError(f'--mini creates its synthetic dataset in {root}: {error}') from error


def use_from_scratch(cfg: Config) -> None:
    """Train from randomly initialised weights: BN statistics too, with group norm in neck and head.

    The published recipe relies on pretrained weights: its statistics are frozen and neck and head
    have no norm at all. From random weights that does not learn (box mAP 0.005 where group norm
    reaches 0.12 after as many images).
    """
    cfg.load_from = None
    backbone = cfg.model.backbone
    backbone.init_cfg = None
    backbone.norm_eval = False
    backbone.frozen_stages = -1
    # without it the mixer's products explode in the first epochs at learning rates from 5e-4
    cfg.optim_wrapper.clip_grad = dict(max_norm=3, norm_type=2)
    model = cfg.model
    for part in (
        model.get('neck'),
        model.get('bbox_head'),
        model.get('decode_head'),
        model.get('roi_head', {}).get('mask_head'),
    ):
        if part and part.type == 'EfficientViMFPN' and part.get('norm_cfg'):
            continue  # a norm layer of its own
        if part and part.type in ('EfficientViMFPN', 'FPN', 'RetinaHead', 'FPNHead', 'FCNMaskHead'):
            part.norm_cfg = GROUP_NORM


def use_synthetic_detection(cfg: Config) -> None:
    """Train a detector on the synthetic dataset, with a schedule of minutes on two CPU cores.

    Many images seen few times, in small batches: more and smaller steps learn faster per minute.
    Enlarged to 224 pixels, since the finest map of the backbone's stages has stride 16, or to 256
    where the model pads to multiples of 64. Mixed precision where it is faster. RetinaNet gets
    towers of two convolutions instead of four, and 128 channels instead of 256 from the neck on:
    they learn sooner, in less than half of the time.
    """
    set_data_root(cfg, DETECTION_ROOT)
    if 'plain_pipeline' in cfg:  # averages and mosaics are for long schedules
        cfg.custom_hooks = []
        cfg.train_dataloader.dataset.pipeline = cfg.plain_pipeline
    divisor = pad_divisor(cfg)
    size = (math.ceil(224 / divisor) * divisor,) * 2
    for _, step in every_step(cfg):
        for key in ('scale', 'crop_size', 'size'):
            if key in step:
                step[key] = size
        if 'scales' in step:
            step.scales = [size]
    for loader in LOADERS:
        cfg[loader].num_workers = 2
    cfg.train_dataloader.batch_size = 4
    cfg.val_dataloader.batch_size = cfg.test_dataloader.batch_size = 8
    if cfg.model.type == 'RetinaNet':
        cfg.model.bbox_head.stacked_convs = 2
        if cfg.model.neck.type == 'EfficientViMFPN':
            cfg.model.neck.out_channels = 128
            cfg.model.bbox_head.update(in_channels=128, feat_channels=128)
    if 'rpn_head' in cfg.model:  # the recipe's 512 RoIs an image take seconds on a CPU
        cfg.train_dataloader.dataset.indices = 1500  # the first images
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=500, max_per_img=100)
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 32
        cfg.model.test_cfg.rpn.update(nms_pre=500, max_per_img=100)
    epochs = 2
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
    # at 5e-4 RetinaNet-M4's gradients grow in some runs and not in others that differ in rounding
    rate = 3e-4 if cfg.model.type == 'RetinaNet' else 5e-4
    cfg.optim_wrapper.optimizer.update(lr=rate, fused=True)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(
            type='CosineAnnealingLR',
            by_epoch=True,
            begin=0,
            end=epochs,
            T_max=epochs,
            eta_min_ratio=0.01,
            convert_to_iter_based=True,
        ),
    ]
    if amp_is_faster():
        use_amp(cfg)
    cfg.default_hooks.logger.interval = 32
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=2, save_best=None)


def use_synthetic_segmentation(cfg: Config) -> None:
    """Train a segmentor on the synthetic dataset; background is a class that no mean counts.

    Enlarged twofold, since the finest map of the backbone has stride 16.
    """
    set_data_root(cfg, SEGMENTATION_ROOT)
    scale, crop = (320, 320), (256, 256)
    for dataset in dataset_configs(cfg):
        dataset.update(
            type='BaseSegDataset',
            img_suffix='.bmp',
            seg_map_suffix='.bmp',
            reduce_zero_label=True,
            metainfo=dict(classes=synthetic.ADE_CLASSES),
        )
    for _, step in every_step(cfg):
        if step.type in ('Resize', 'RandomResize'):
            step.scale = scale
        if step.type == 'RandomResize':
            step.ratio_range = (0.8, 1.2)
        if step.type == 'RandomCrop':
            step.crop_size = crop
    cfg.model.data_preprocessor.size = crop
    for loader in LOADERS:
        cfg[loader].num_workers = 2
    cfg.train_dataloader.batch_size = 4
    for evaluator in EVALUATORS:
        cfg[evaluator].ignored_classes = ['ground']
    iterations = 1200
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 2
    )
    cfg.optim_wrapper.optimizer.update(lr=5e-4, fused=True)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(
            type='CosineAnnealingLR',
            by_epoch=False,
            begin=0,
            end=iterations,
            T_max=iterations,
            eta_min_ratio=0.01,
        ),
    ]
    if amp_is_faster():
        use_amp(cfg)
    cfg.default_hooks.logger.interval = 50
    cfg.default_hooks.checkpoint.update(interval=iterations // 2, max_keep_ckpts=2, save_best=None)
