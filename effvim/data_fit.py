"""`train --data`: what of a detector's config depends on the data, as options of that config.

They are remembered in the checkpoint, so that what follows the training needs no data to know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from backbone.errors import UserError

from . import anchors, coco
from .config import is_segmentor

BATCH = 4  # more and smaller steps learn sooner where data is scarce
SEEN = 24_000  # pictures that a training sees, whatever their number, within EPOCHS
EPOCHS = (6, 100)
ENLARGED = 1.4  # at most: the finest map of the backbone has stride 16


def options(cfg: Config, root: Path, scratch: bool, epochs: int | None) -> dict[str, Any]:
    """Changes of `cfg` for the data in `root`, of the layout of COCO; prints them.

    scratch: the run starts from random weights. epochs: instead of as many as the size asks for.

    Raises:
        UserError: the config is of a segmentor, or has steps that mix pictures; or as
            `coco.read_annotations`.
    """
    if is_segmentor(cfg):
        raise UserError('--data is for detectors; a segmentor takes --data-root and its own '
                        'schedule')
    if 'plain_pipeline' in cfg:
        raise UserError('--data is for RetinaNet and Mask R-CNN; RTMDet takes --data-root and its '
                        'own schedule')
    if epochs is not None and epochs < 1:
        raise UserError(f'--epochs {epochs}: a whole number from 1')
    dataset = cfg.train_dataloader.dataset
    content = coco.read_annotations(root / dataset.ann_file, root)
    pictures = {image['id']: (image['width'], image['height']) for image in content['images']}
    if not pictures:
        raise UserError(f'{root / dataset.ann_file} holds no picture to train on')
    scale = picture_scale(cfg, np.array(list(pictures.values())))
    batch = min(BATCH, len(pictures))
    epochs = epochs or int(np.clip(round(SEEN / len(pictures)), *EPOCHS))
    optimizer = cfg.optim_wrapper.optimizer
    published = cfg.auto_scale_lr.base_batch_size
    # of Adam's kind: with the root of the batch; from random weights that of --mini
    rate = 5e-4 if scratch else float(f'{optimizer.lr * (batch / published) ** 0.5:.2g}')
    steps = epochs * -(-len(pictures) // batch)
    found: dict[str, Any] = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': max(1, epochs // 10),
        'train_dataloader.batch_size': batch,
        'optim_wrapper.optimizer.lr': rate,
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,
                 end=min(500, max(1, steps // 20))),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=epochs, T_max=epochs,
                 eta_min_ratio=0.01, convert_to_iter_based=True)],
        'default_hooks.checkpoint.interval': max(1, epochs // 10),
    }
    for key in resize_steps(cfg):
        found[f'{key}.scale'] = scale
    print(f'{len(pictures):,} pictures: {epochs} epochs of batches of {batch}, learning rate '
          f'{rate:g}, pictures resized into {scale[0]} × {scale[1]}')
    found.update(fit_anchors(cfg, content, pictures, scale))
    return found


def picture_scale(cfg: Config, sizes: np.ndarray) -> tuple[int, int]:
    """The scale of the config's training, less if that enlarged most pictures beyond `ENLARGED`."""
    step = next(s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'Resize')
    factor = float(np.median(anchors.resized(sizes, step.scale)))
    shrink = min(1.0, ENLARGED / factor)
    long, short = (max(32, round(side * shrink / 32) * 32) for side in step.scale)
    return (long, short) if shrink < 1 else tuple(step.scale)


def resize_steps(cfg: Config) -> Iterator[str]:
    """Keys of the steps that resize, of all loaders."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for i, step in enumerate(cfg[loader].dataset.pipeline):
            if step.type == 'Resize':
                yield f'{loader}.dataset.pipeline.{i}'


def fit_anchors(
    cfg: Config, content: dict[str, Any], pictures: dict[int, tuple[int, int]],
    scale: tuple[int, int],
) -> dict[str, Any]:
    """The anchors' scale, if another one covers more of the boxes; prints what it found."""
    where = anchors.generator(cfg)
    if where is None:
        return {}
    key, own = where
    entries = [a for a in content['annotations']
               if not a.get('iscrowd') and a['image_id'] in pictures and min(a['bbox'][2:]) >= 1]
    sizes = np.array([pictures[a['image_id']] for a in entries]).reshape(-1, 2)
    boxes = np.array([a['bbox'][2:] for a in entries], float).reshape(-1, 2)
    boxes *= anchors.resized(sizes, scale)[:, None] if len(sizes) else 1
    covered = anchors.coverage(boxes, anchors.sides(own))
    best = anchors.best_scale(boxes, own)
    field = 'octave_base_scale' if own.get('octave_base_scale') else 'scales'
    kept = best == (own[field] if field == 'octave_base_scale' else own.scales[0])
    now = '' if kept else (f'; with {field}={best} instead of {own[field]} '
                           f'{anchors.coverage(boxes, anchors.sides(own, best)):.1%}')
    print(f'anchors cover {covered:.1%} of {len(boxes):,} boxes at IoU 0.5{now}')
    if kept:
        return {}
    return {f'{key}.{field}': best if field == 'octave_base_scale' else [best]}
