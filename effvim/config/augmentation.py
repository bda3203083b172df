"""Presets of augmentation for `effvim train --data`, of mmdet's and mmseg's transforms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from effvim.config.structure import is_segmentor

if TYPE_CHECKING:
    from mmengine.config import Config

PRESETS = ('none', 'light', 'strong')

LIGHT_SCALES = (0.8, 1.25)  # factors of the size that images are evaluated at

STRONG_SCALES = (0.5, 2.0)

FILL = 114  # grey level around images, as in RTMDet's recipe


def options(cfg: Config, name: str, epochs: int) -> dict[str, Any]:
    """Changes that give a config the augmentation of a preset.

    Args:
        cfg: the config, not changed, with the image size of the run.
        name: 'none' resizes (segmentors also crop); 'light' also flips and changes the size by up
            to a quarter; 'strong' also changes colours and sizes up to twofold; for detectors it
            joins images by mosaic and mixup, until the last fifth of the epochs, which are light.
        epochs: length of the training.
    """
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook.type != 'PipelineSwitchHook']
    if is_segmentor(cfg):
        pipeline = segmentation_pipeline(cfg, name)
    else:
        pipeline = detection_pipeline(cfg, name)
        if name == 'strong':
            hooks.append(
                dict(
                    type='PipelineSwitchHook',
                    switch_epoch=last_epochs(epochs),
                    switch_pipeline=detection_pipeline(cfg, 'light'),
                )
            )
    return {'train_dataloader.dataset.pipeline': pipeline, 'custom_hooks': hooks}


def mixes_images(cfg: Config) -> bool:
    """Whether the training pipeline joins several images into one."""
    kinds = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    return any('Mosaic' in kind or 'MixUp' in kind for kind in kinds)


def last_epochs(epochs: int) -> int:
    """The epoch after which images are no longer joined: a fifth before the end, at least two."""
    return max(0, epochs - max(2, epochs // 5))


def detection_pipeline(cfg: Config, name: str) -> list[dict[str, Any]]:
    """The training pipeline of a detector with a preset of `options`."""
    loading, packing = _ends(cfg)
    scale = _step(cfg.val_dataloader.dataset.pipeline, 'Resize').scale
    padding = [step for step in cfg.val_dataloader.dataset.pipeline if step.type == 'Pad']
    size = scale
    if name == 'none':
        steps = [dict(type='Resize', scale=scale, keep_ratio=True)]
    elif name == 'light':
        steps = [_random_resize(scale, LIGHT_SCALES)]
    else:
        # images of either orientation are joined into squares of the same area
        side = max(32, round(math.sqrt(scale[0] * scale[1]) / 32) * 32)
        size = (side, side)
        steps = [
            dict(type='CachedMosaic', img_scale=size, pad_val=float(FILL)),
            _random_resize((2 * side, 2 * side), STRONG_SCALES),
        ]
    if name == 'strong' or (name == 'light' and padding):
        steps += [
            dict(type='RandomCrop', crop_size=size, recompute_bbox=True, allow_negative_crop=True),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
        ]
    if name == 'strong':
        steps.append(dict(type='YOLOXHSVRandomAug'))  # cannot write into flipped images
    if name != 'none':
        steps.append(dict(type='RandomFlip', prob=0.5))
    if name == 'strong':
        fill = (FILL, FILL, FILL)
        steps += [
            dict(type='Pad', size=size, pad_val=dict(img=fill)),
            dict(
                type='CachedMixUp',
                img_scale=size,
                ratio_range=(1.0, 1.0),
                max_cached_images=20,
                pad_val=fill,
            ),
        ]
    return [*loading, *steps, *(padding if name != 'strong' else []), packing]


def segmentation_pipeline(cfg: Config, name: str) -> list[dict[str, Any]]:
    """The training pipeline of a segmentor with a preset of `options`."""
    loading, packing = _ends(cfg)
    scale = _step(cfg.val_dataloader.dataset.pipeline, 'Resize').scale
    crop = dict(_step(cfg.train_dataloader.dataset.pipeline, 'RandomCrop'))
    if name == 'none':
        return [*loading, dict(type='Resize', scale=scale, keep_ratio=True), crop, packing]
    flip = dict(type='RandomFlip', prob=0.5)
    if name == 'light':
        return [*loading, _random_resize(scale, LIGHT_SCALES), crop, flip, packing]
    turn = dict(type='RandomRotate', prob=0.5, degree=10.0, pad_val=0, seg_pad_val=255)
    colours = dict(type='PhotoMetricDistortion')
    return [*loading, _random_resize(scale, STRONG_SCALES), turn, crop, flip, colours, packing]


def _ends(cfg: Config) -> tuple[list[Any], Any]:
    """The steps that load, and the one that packs."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    return [step for step in pipeline if step.type.startswith('Load')], pipeline[-1]


def _step(pipeline: Any, kind: str) -> Any:
    return next(step for step in pipeline if step.type == kind)


def _random_resize(scale: Any, factors: tuple[float, float]) -> dict[str, Any]:
    return dict(type='RandomResize', scale=scale, ratio_range=factors, keep_ratio=True)
