"""Presets of augmentation for `effvim train --data`, of mmdet's and mmseg's transforms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from backbone.errors import UserError
from effvim.config.structure import evaluation_resize, is_segmentor, kind_of, loads_grey, pair

if TYPE_CHECKING:
    from mmengine.config import Config

PRESETS = ('config', 'none', 'light', 'strong')

LIGHT_SCALES = (0.8, 1.25)  # factors of the size that images are evaluated at

STRONG_SCALES = (0.5, 2.0)

FILL = 114  # grey level around images, as in RTMDet's recipe

# Transforms of configs/_base_/coco_640*.py: a pipeline with others is somebody's own.
RECIPE = {
    'LoadImageFromFile',
    'LoadAnnotations',
    'CachedMosaic',
    'RandomResize',
    'RandomCrop',
    'YOLOXHSVRandomAug',
    'RandomFlip',
    'Pad',
    'CachedMixUp',
    'FilterAnnotations',
    'PackDetInputs',
}


def default(cfg: Config) -> str:
    """The preset of a run that names none: 'light' for RTMDet's mosaics, else the config's own.

    Mosaic and mixup pay in trainings of hundreds of epochs. A pipeline with other transforms than
    the recipe's stays.
    """
    kinds = {kind_of(step) for step in cfg.train_dataloader.dataset.pipeline}
    return 'light' if 'CachedMosaic' in kinds and kinds <= RECIPE else 'config'


def options(cfg: Config, name: str, epochs: int) -> dict[str, Any]:
    """Changes that give a config the augmentation of a preset.

    Args:
        cfg: the config, not changed, with the image size of the run.
        name: 'none' resizes (segmentors also crop); 'light' also flips and changes the size by up
            to a quarter; 'strong' also changes colours and sizes up to twofold; for detectors it
            joins images by mosaic and mixup, until the last fifth of the epochs, which are light.
        epochs: length of the training.

    Raises:
        UserError: the config's pipeline lacks a step that the preset keeps, or its training counts
            iterations, which cannot end with light epochs.
    """
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook.type != 'PipelineSwitchHook']
    if is_segmentor(cfg):
        pipeline = segmentation_pipeline(cfg, name)
    else:
        pipeline = detection_pipeline(cfg, name)
        if name == 'strong':
            if 'max_iters' in cfg.train_cfg:
                raise UserError(
                    '--augment strong needs a config that counts epochs, since mosaics end before '
                    'the last ones: use --augment light'
                )
            hooks.append(
                dict(
                    type='PipelineSwitchHook',
                    switch_epoch=last_epochs(epochs),
                    switch_pipeline=detection_pipeline(cfg, 'light'),
                )
            )
    return {'train_dataloader.dataset.pipeline': pipeline, 'custom_hooks': hooks}


def last_epochs(epochs: int) -> int:
    """The epoch after which images are no longer joined: a fifth before the end, at least two."""
    return max(0, epochs - max(2, epochs // 5))


def detection_pipeline(cfg: Config, name: str) -> list[dict[str, Any]]:
    """The training pipeline of a detector with a preset of `options`."""
    loading, packing = _ends(cfg)
    scale = pair(evaluation_resize(cfg).scale)
    padding = [step for step in cfg.val_dataloader.dataset.pipeline if kind_of(step) == 'Pad']
    fixed = next((tuple(step.size) for step in padding if step.get('size')), None)
    flip = dict(type='RandomFlip', prob=0.5)
    if name == 'none':
        return [*loading, dict(type='Resize', scale=scale, keep_ratio=True), *padding, packing]
    if name == 'light':
        crop = _crop(fixed) if fixed else []
        return [*loading, _random_resize(scale, LIGHT_SCALES), *crop, flip, *padding, packing]
    # images of either orientation are joined into squares of the same area
    side = max(32, round(math.sqrt(scale[0] * scale[1]) / 32) * 32)
    square = (side, side)
    fill = FILL if loads_grey(loading) else (FILL, FILL, FILL)
    colours = dict(type='YOLOXHSVRandomAug')
    mixup = dict(
        type='CachedMixUp',
        img_scale=square,
        ratio_range=(1.0, 1.0),
        max_cached_images=20,
        pad_val=fill,
    )
    return [
        *loading,
        dict(type='CachedMosaic', img_scale=square, pad_val=float(FILL)),
        _random_resize((2 * side, 2 * side), STRONG_SCALES),
        *_crop(square),
        *([] if loads_grey(loading) else [colours]),  # cannot write into flipped images
        flip,
        dict(type='Pad', size=square, pad_val=dict(img=fill)),
        *([] if loads_grey(loading) else [mixup]),
        packing,
    ]


def segmentation_pipeline(cfg: Config, name: str) -> list[dict[str, Any]]:
    """The training pipeline of a segmentor with a preset of `options`."""
    loading, packing = _ends(cfg)
    scale = pair(evaluation_resize(cfg).scale)
    crops = [s for s in cfg.train_dataloader.dataset.pipeline if kind_of(s) == 'RandomCrop']
    if name == 'none':
        return [*loading, dict(type='Resize', scale=scale, keep_ratio=True), *crops, packing]
    flip = dict(type='RandomFlip', prob=0.5)
    if name == 'light':
        return [*loading, _random_resize(scale, LIGHT_SCALES), *crops, flip, packing]
    turn = dict(type='RandomRotate', prob=0.5, degree=10.0, pad_val=0, seg_pad_val=255)
    colours = [] if loads_grey(loading) else [dict(type='PhotoMetricDistortion')]
    return [*loading, _random_resize(scale, STRONG_SCALES), turn, *crops, flip, *colours, packing]


def _ends(cfg: Config) -> tuple[list[Any], Any]:
    """The steps that load, up to the last one whose name begins with Load, and the one that packs.

    Raises:
        UserError: no step loads annotations.
    """
    pipeline = cfg.train_dataloader.dataset.pipeline
    loading = [i for i, step in enumerate(pipeline) if kind_of(step).startswith('Load')]
    if not any('Annotations' in kind_of(pipeline[i]) for i in loading):
        raise UserError(
            '--augment needs a training pipeline with a step LoadAnnotations, after which it puts '
            'its own: use --augment config'
        )
    return pipeline[: loading[-1] + 1], pipeline[-1]


def _random_resize(scale: Any, factors: tuple[float, float]) -> dict[str, Any]:
    return dict(type='RandomResize', scale=scale, ratio_range=factors, keep_ratio=True)


def _crop(size: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        dict(type='RandomCrop', crop_size=size, recompute_bbox=True, allow_negative_crop=True),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    ]
