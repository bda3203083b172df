"""`train --data`: what of a config depends on the data, as options of that config.

They are remembered in the checkpoint, so that what follows the training needs no data to know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.structure import LOADERS, every_step, is_segmentor
from effvim.datasets import ade, coco
from effvim.formats import anchors, masks
from effvim.formats.dataset import walk

BATCH = 4  # more and smaller steps learn sooner where data is scarce

SEEN = 24_000  # pictures that a training sees, whatever their number, within EPOCHS

EPOCHS = (6, 100)

SIZES = ('scale', 'scales', 'crop_size', 'size', 'img_scale')  # of steps of a pipeline, in pixels

LEAST = 128  # of a side: two cells of the coarsest map, BN of one cell has no variance

ENLARGED = 1.4  # at most: the finest map of the backbone has stride 16


def options(cfg: Config, root: Path, scratch: bool, epochs: int | None) -> dict[str, Any]:
    """Changes of `cfg` for the data in `root`, as `effvim data split` writes it; prints them.

    scratch: the run starts from random weights. epochs: instead of as many as the size asks for.

    Raises:
        UserError: as `coco.read_annotations`, or as reading masks; evaluation resizes nothing.
    """
    if epochs is not None and epochs < 1:
        raise UserError(f'--epochs {epochs}: a whole number from 1')
    found: dict[str, Any] = {}
    sizes: dict[Any, tuple[int, int]]
    if is_segmentor(cfg):
        found, sizes = segmentation(cfg, root)
    else:
        content, sizes = detection(cfg, root)
    if not sizes:
        raise UserError(f'{root} holds no picture to train on')
    scale = picture_scale(cfg, np.array(list(sizes.values())))
    epochs = epochs or int(np.clip(round(SEEN / len(sizes)), *EPOCHS))
    found.update(schedule(cfg, len(sizes), epochs, scratch))
    found.update(resizing(cfg, scale))
    if scratch and cfg.model.type == 'RetinaNet':
        print('two convolutions in each tower of the head: from random weights they learn sooner')
        found['model.bbox_head.stacked_convs'] = 2
    print(
        f'{len(sizes):,} pictures: {epochs} epochs of batches of '
        f'{found["train_dataloader.batch_size"]}, learning rate '
        f'{found["optim_wrapper.optimizer.lr"]:g}, pictures resized into {scale[0]} × {scale[1]}'
    )
    if not is_segmentor(cfg):
        found.update(fit_anchors(cfg, content, sizes, scale))
    return found


def detection(cfg: Config, root: Path) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """The training annotations, and sizes of the pictures that the data set does not leave out.

    Raises:
        UserError: there are none, or as `coco.read_annotations`.
    """
    dataset = cfg.train_dataloader.dataset
    path = root / dataset.ann_file
    if root.is_dir() and not path.is_file() and not (root / masks.CLASSES).is_file():
        raise UserError(
            f'{path} not found: --data is what "effvim data split {root} ready" or '
            f'"effvim data convert" has written'
        )
    content = coco.read_annotations(path, root)
    rules = dataset.get('filter_cfg') or {}
    annotated = {annotation['image_id'] for annotation in content['annotations']}
    sizes = {
        image['id']: (image['width'], image['height'])
        for image in content['images']
        if (image['id'] in annotated or not rules.get('filter_empty_gt'))
        and min(image['width'], image['height']) >= rules.get('min_size', 0)
    }
    left = len(content['images']) - len(sizes)
    if left:
        print(
            f'{left:,} of {len(content["images"]):,} pictures are left out of training: without '
            f'objects, or below {rules.get("min_size", 0)} pixels (train_dataloader.dataset.'
            f'filter_cfg)'
        )
    return content, sizes


def segmentation(cfg: Config, root: Path) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """What the layout of `data_masks.write` asks of data sets; sizes of its training pictures.

    Raises:
        UserError: there is no such layout, or a picture cannot be read.
    """
    if any(root.glob('annotations/*.json')):
        raise UserError(f'{root} holds boxes, the config is a segmentor: it needs masks')
    classes = masks.classes_in(root)
    folder = root / cfg.train_dataloader.dataset.data_prefix.img_path
    files = walk(folder)
    found: dict[str, Any] = {
        f'{key}.reduce_zero_label': False
        for key, step in every_step(cfg)
        if 'reduce_zero_label' in step
    }
    for loader in LOADERS:
        found |= {
            f'{loader}.dataset.{key}': value
            for key, value in dict(
                type='BaseSegDataset',
                img_suffix=masks.suffix_of([file.name for file in files]),
                seg_map_suffix='.png',
                reduce_zero_label=False,
                metainfo=dict(classes=classes),
            ).items()
        }
    return found, {str(file): ade.size_of(file) for file in files}


def schedule(cfg: Config, pictures: int, epochs: int, scratch: bool) -> dict[str, Any]:
    """Length, batch, learning rate, and when to measure and to save."""
    batch = min(BATCH, pictures)
    each = -(-pictures // batch)
    steps = epochs * each
    by_iteration = 'max_iters' in cfg.train_cfg
    whole = steps if by_iteration else epochs
    optimizer = cfg.optim_wrapper.optimizer
    published = (cfg.get('auto_scale_lr') or {}).get(
        'base_batch_size', cfg.train_dataloader.batch_size
    )
    # of Adam's kind: with the root of the batch; from random weights that of --mini
    rate = 5e-4 if scratch else float(f'{optimizer.lr * (batch / published) ** 0.5:.2g}')
    cosine = dict(
        type='CosineAnnealingLR',
        by_epoch=not by_iteration,
        begin=0,
        end=whole,
        T_max=whole,
        eta_min_ratio=0.01,
    )
    found: dict[str, Any] = {
        f'train_cfg.max_{"iters" if by_iteration else "epochs"}': whole,
        'train_cfg.val_interval': max(1, whole // 10),
        'default_hooks.checkpoint.interval': max(1, whole // 10),
        'train_dataloader.batch_size': batch,
        'optim_wrapper.optimizer.lr': rate,
        'param_scheduler': [
            dict(
                type='LinearLR',
                start_factor=0.01,
                by_epoch=False,
                begin=0,
                end=min(500, max(1, steps // 20)),
            ),
            cosine if by_iteration else dict(cosine, convert_to_iter_based=True),
        ],
    }
    if 'dynamic_intervals' in cfg.train_cfg:
        found['train_cfg.dynamic_intervals'] = None
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if hook.type == 'PipelineSwitchHook':
            found[f'custom_hooks.{i}.switch_epoch'] = max(0, epochs - max(2, epochs // 5))
    return found


def picture_scale(cfg: Config, sizes: np.ndarray) -> tuple[int, int]:
    """The scale of the config's evaluation, less if that enlarged most pictures beyond `ENLARGED`.

    Long side first.
    """
    step = _evaluated_on(cfg)
    factor = float(np.median(anchors.resized(sizes, step.scale)))
    return _times(step.scale, min(1.0, ENLARGED / factor))


def _evaluated_on(cfg: Config) -> Any:
    found = [s for s in cfg.val_dataloader.dataset.pipeline if s.type == 'Resize' and 'scale' in s]
    if not found:
        raise UserError('--data needs a config whose val_dataloader has a step Resize with a scale')
    return found[0]


def resizing(cfg: Config, scale: tuple[int, int]) -> dict[str, Any]:
    """Every size of every step of every pipeline, if evaluation is to be on `scale`."""
    step = _evaluated_on(cfg)
    if tuple(step.scale) == scale:
        return {}
    factor = max(scale) / max(step.scale)
    found = {
        f'{key}.{name}': _times(step[name], factor)
        for key, step in every_step(cfg)
        for name in SIZES
        if name in step
    }
    if is_segmentor(cfg):
        found['model.data_preprocessor.size'] = _times(cfg.model.data_preprocessor.size, factor)
    return found


def _times(size: Any, factor: float) -> Any:
    """Pixels times `factor`, multiples of 32, of one size or of a list; shares as they are."""
    if isinstance(size, (list, tuple)):
        return type(size)(_times(one, factor) for one in size)
    whole = isinstance(size, int) and factor != 1
    return max(LEAST, round(size * factor / 32) * 32) if whole else size


def fit_anchors(
    cfg: Config,
    content: dict[str, Any],
    pictures: dict[int, tuple[int, int]],
    scale: tuple[int, int],
) -> dict[str, Any]:
    """The anchors' scale, if another one covers more of the boxes; prints what it found."""
    where = anchors.generator(cfg)
    if where is None:
        return {}
    key, own = where
    entries = [
        a
        for a in content['annotations']
        if not a.get('iscrowd') and a['image_id'] in pictures and min(a['bbox'][2:]) >= 1
    ]
    sizes = np.array([pictures[a['image_id']] for a in entries]).reshape(-1, 2)
    boxes = np.array([a['bbox'][2:] for a in entries], float).reshape(-1, 2)
    boxes *= anchors.resized(sizes, scale)[:, None] if len(sizes) else 1
    covered = anchors.coverage(boxes, anchors.sides(own))
    best = anchors.best_scale(boxes, own)
    field, now = anchors.scale_of(own)
    text = f'anchors cover {covered:.1%} of {len(boxes):,} boxes at IoU 0.5'
    if best == now:
        print(text)
        return {}
    print(
        f'{text}; with {field}={best} instead of {now} '
        f'{anchors.coverage(boxes, anchors.sides(own, best)):.1%}'
    )
    return {f'{key}.{field}': [best] if field == 'scales' else best}
