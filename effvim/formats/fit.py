"""`effvim train --data`: fit a config to a dataset; the changes are options of that config.

They are remembered in the checkpoint, so that later commands need no data to know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.config.structure import LOADERS, every_step, is_segmentor
from effvim.datasets import coco
from effvim.formats import anchors, masks
from effvim.images import find_files, image_size

if TYPE_CHECKING:
    from mmengine.config import Config

BATCH_SIZE = 4  # more and smaller steps learn sooner where data is scarce

IMAGES_SEEN = 24_000  # in a training run, however many there are, within MIN_EPOCHS to MAX_EPOCHS

MIN_EPOCHS, MAX_EPOCHS = 6, 100

SIZES = ('scale', 'scales', 'crop_size', 'size', 'img_scale')  # of pipeline steps, in pixels

MIN_SIDE = 128  # two cells of the coarsest map; BN of one cell has no variance

MAX_ENLARGEMENT = 1.4  # the finest map of the backbone has stride 16


def options(
    cfg: Config,
    root: Path,
    from_scratch: bool,
    epochs: int | None,
    parsed: dict[Path, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Changes that fit `cfg` to the dataset in `root`, as `--cfg-options` would make them.

    Prints what it decides.

    Args:
        cfg: the config, not changed.
        root: a dataset as `effvim data split` or `effvim data convert` writes it.
        from_scratch: whether the run starts from randomly initialised weights.
        epochs: length of the training (default: by the number of images).
        parsed: receives the training annotations, for `coco.check`.

    Raises:
        UserError: the dataset is absent or wrong, or the config does not resize for evaluation.
    """
    if epochs is not None and epochs < 1:
        raise UserError(f'--epochs {epochs}: pass a whole number from 1')
    changes: dict[str, Any] = {}
    content: dict[str, Any] = {}
    sizes: dict[Any, tuple[int, int]]
    if is_segmentor(cfg):
        changes, sizes = segmentation_layout(cfg, root)
    else:
        content, sizes = training_annotations(cfg, root)
        if parsed is not None:
            parsed[(root / cfg.train_dataloader.dataset.ann_file).resolve()] = content
    if not sizes:
        raise UserError(f'{root} holds no image to train on')
    scale = image_scale(cfg, np.array(list(sizes.values())))
    epochs = epochs or int(np.clip(round(IMAGES_SEEN / len(sizes)), MIN_EPOCHS, MAX_EPOCHS))
    changes.update(schedule(cfg, len(sizes), epochs, from_scratch))
    changes.update(resizing(cfg, scale))
    if from_scratch and cfg.model.type == 'RetinaNet':
        console.say('two convolutions in each tower of the head: they learn sooner from scratch')
        changes['model.bbox_head.stacked_convs'] = 2
    console.say(
        f'{len(sizes):,} images: {epochs} epochs, batch size '
        f'{changes["train_dataloader.batch_size"]}, learning rate '
        f'{changes["optim_wrapper.optimizer.lr"]:g}, images resized to fit {scale[0]} × {scale[1]}'
    )
    if content:
        changes.update(fit_anchors(cfg, content, sizes, scale))
    return changes


def training_annotations(
    cfg: Config, root: Path
) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """The training annotations, and sizes by id of the images that mmdet does not filter out.

    Raises:
        UserError: there are none, or as `coco.read_annotations`.
    """
    dataset = cfg.train_dataloader.dataset
    path = root / dataset.ann_file
    has_classes = (root / masks.CLASSES).is_file()
    for name in (dataset.ann_file, cfg.val_dataloader.dataset.ann_file):
        if root.is_dir() and not (root / name).is_file() and not has_classes:
            raise UserError(
                f'{root / name} not found: --data needs a train and a val split in the layout of '
                f'effvim data. Run "effvim data split {root} ready" (or effvim data convert, if it '
                f'is split already), then pass --data ready'
            )
    content = coco.read_annotations(path, root)
    filters = dataset.get('filter_cfg') or {}
    min_size = filters.get('min_size', 0)
    annotated = {annotation['image_id'] for annotation in content['annotations']}
    sizes = {
        image['id']: (image['width'], image['height'])
        for image in content['images']
        if (image['id'] in annotated or not filters.get('filter_empty_gt'))
        and min(image['width'], image['height']) >= min_size
    }
    num_ignored = len(content['images']) - len(sizes)
    if num_ignored:
        console.say(
            f'{num_ignored:,} of {len(content["images"]):,} images are ignored in training: '
            f'without objects, or below {min_size} pixels (train_dataloader.dataset.filter_cfg)'
        )
    return content, sizes


def segmentation_layout(
    cfg: Config, root: Path
) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """Changes for the layout that `masks.write` writes, and sizes of the training images.

    Raises:
        UserError: the dataset has another layout, or an image cannot be read.
    """
    if any(root.glob('annotations/*.json')):
        raise UserError(f'{root} holds boxes, but the config is a segmentor: it needs masks')
    classes = masks.read_classes(root)
    files = find_files(root / cfg.train_dataloader.dataset.data_prefix.img_path)
    changes: dict[str, Any] = {
        f'{key}.reduce_zero_label': False
        for key, step in every_step(cfg)
        if 'reduce_zero_label' in step
    }
    for loader in LOADERS:
        changes |= {
            f'{loader}.dataset.{key}': value
            for key, value in dict(
                type='BaseSegDataset',
                img_suffix=masks.common_suffix([file.name for file in files]),
                seg_map_suffix='.png',
                reduce_zero_label=False,
                metainfo=dict(classes=classes),
            ).items()
        }
    return changes, {str(file): image_size(file) for file in files}


def schedule(cfg: Config, num_images: int, epochs: int, from_scratch: bool) -> dict[str, Any]:
    """Length, batch size, learning rate, and when to evaluate and to save."""
    batch_size = min(BATCH_SIZE, num_images)
    steps = epochs * -(-num_images // batch_size)
    by_iteration = 'max_iters' in cfg.train_cfg
    length = steps if by_iteration else epochs
    optimizer = cfg.optim_wrapper.optimizer
    published_batch_size = (cfg.get('auto_scale_lr') or {}).get(
        'base_batch_size', cfg.train_dataloader.batch_size
    )
    # optimizers like Adam: with the square root of the batch size; from scratch that of --mini
    scaled = optimizer.lr * (batch_size / published_batch_size) ** 0.5
    rate = 5e-4 if from_scratch else float(f'{scaled:.2g}')
    warm_up = dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=min(500, max(1, steps // 20)),
    )
    cosine = dict(
        type='CosineAnnealingLR',
        by_epoch=not by_iteration,
        begin=0,
        end=length,
        T_max=length,
        eta_min_ratio=0.01,
    )
    if not by_iteration:
        cosine['convert_to_iter_based'] = True
    changes: dict[str, Any] = {
        f'train_cfg.max_{"iters" if by_iteration else "epochs"}': length,
        'train_cfg.val_interval': max(1, length // 10),
        'default_hooks.checkpoint.interval': max(1, length // 10),
        'train_dataloader.batch_size': batch_size,
        'optim_wrapper.optimizer.lr': rate,
        'param_scheduler': [warm_up, cosine],
    }
    if 'dynamic_intervals' in cfg.train_cfg:
        changes['train_cfg.dynamic_intervals'] = None
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if hook.type == 'PipelineSwitchHook':
            changes[f'custom_hooks.{i}.switch_epoch'] = max(0, epochs - max(2, epochs // 5))
    return changes


def image_scale(cfg: Config, sizes: np.ndarray) -> tuple[int, int]:
    """The scale for evaluation: the config's, or smaller if that enlarged most images too much.

    Args:
        cfg: the config.
        sizes: widths and heights of the images, N 2.

    Returns:
        Long side and short side, as the config orders them.
    """
    scale = _evaluation_resize(cfg).scale
    factor = float(np.median(anchors.resize_factors(sizes, scale)))
    return _multiply(scale, min(1.0, MAX_ENLARGEMENT / factor))


def _evaluation_resize(cfg: Config) -> Any:
    for step in cfg.val_dataloader.dataset.pipeline:
        if step.type == 'Resize' and 'scale' in step:
            return step
    raise UserError('--data needs a config whose val_dataloader has a step Resize with a scale')


def resizing(cfg: Config, scale: tuple[int, int]) -> dict[str, Any]:
    """Changes of every size in every pipeline that go with evaluation at `scale`."""
    own = tuple(_evaluation_resize(cfg).scale)
    if own == scale:
        return {}
    factor = max(scale) / max(own)
    changes = {
        f'{key}.{name}': _multiply(step[name], factor)
        for key, step in every_step(cfg)
        for name in SIZES
        if name in step
    }
    if is_segmentor(cfg):
        changes['model.data_preprocessor.size'] = _multiply(
            cfg.model.data_preprocessor.size, factor
        )
    return changes


def _multiply(size: Any, factor: float) -> Any:
    """Multiply a size in pixels, or a list of them, to multiples of 32; ratios stay as they are."""
    if isinstance(size, (list, tuple)):
        return type(size)(_multiply(one, factor) for one in size)
    in_pixels = isinstance(size, int) and factor != 1
    return max(MIN_SIDE, round(size * factor / 32) * 32) if in_pixels else size


def fit_anchors(
    cfg: Config,
    content: dict[str, Any],
    image_sizes: dict[int, tuple[int, int]],
    scale: tuple[int, int],
) -> dict[str, Any]:
    """The change of the anchors' scale, if another one covers more boxes; prints the coverage.

    Args:
        cfg: the config.
        content: the training annotations.
        image_sizes: width and height by id of the images that are trained on.
        scale: that images are resized to.
    """
    keyed = anchors.anchor_generator(cfg)
    if keyed is None:
        return {}
    key, generator = keyed
    annotations = [
        a
        for a in content['annotations']
        if not a.get('iscrowd') and a['image_id'] in image_sizes and min(a['bbox'][2:]) >= 1
    ]
    sizes = np.array([image_sizes[a['image_id']] for a in annotations]).reshape(-1, 2)
    boxes = np.array([a['bbox'][2:] for a in annotations], float).reshape(-1, 2)
    if len(boxes):
        boxes *= anchors.resize_factors(sizes, scale)[:, None]
    covered = anchors.coverage(boxes, anchors.anchor_sizes(generator))
    field, own = anchors.scale_of(generator)
    best = anchors.best_scale(boxes, generator)
    text = f'anchors cover {covered:.1%} of {len(boxes):,} boxes at IoU 0.5'
    if best == own:
        console.say(text)
        return {}
    covered = anchors.coverage(boxes, anchors.anchor_sizes(generator, best))
    console.say(f'{text}; {covered:.1%} with {field}={best} instead of {own}')
    return {f'{key}.{field}': [best] if field == 'scales' else best}
