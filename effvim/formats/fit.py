"""`effvim train --data`: fit a config to a dataset; the changes are options of that config.

They are remembered in the checkpoint, so that later commands need no data to know them.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.config import augmentation
from effvim.config.structure import LOADERS, every_step, is_segmentor
from effvim.datasets import coco
from effvim.formats import anchors, masks, schedule
from effvim.images import find_files, image_size

if TYPE_CHECKING:
    from mmengine.config import Config

SIZES = ('scale', 'scales', 'crop_size', 'size', 'img_scale')  # of pipeline steps, in pixels

MIN_SIDE = 128  # two cells of the coarsest map; BN of one cell has no variance

MAX_ENLARGEMENT = 1.4  # the finest map of the backbone has stride 16

SUFFICIENT_SIDE = 32  # pixels: smaller objects are "small" in COCO's metrics

SMALL_OBJECTS = 0.05  # fraction of the objects that may be smaller than that

MIN_LONG_SIDE = 320

ELONGATED = 4  # times as long as wide: resized, such an image has hardly a short side left


def options(
    cfg: Config,
    root: Path,
    *,
    from_scratch: bool,
    epochs: int | None = None,
    image_size: int | None = None,
    augment: str | None = None,
    patience: int | None = None,
    processes: int = 1,
    parsed: dict[Path, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Changes that fit `cfg` to the dataset in `root`, as `--cfg-options` would make them.

    Prints what it decides.

    Args:
        cfg: the config, not changed.
        root: a dataset as `effvim data split` or `effvim data convert` writes it.
        from_scratch: whether the run starts from randomly initialised weights.
        epochs: length of the training (default: by the number of images).
        image_size: the longest side that images are resized to (default: by their size and that of
            the objects).
        augment: one of `augmentation.PRESETS` (default: 'light' if the config's own joins images,
            else the config's own).
        patience: stop after so many validations without improvement (default: never).
        processes: number of processes that share each batch.
        parsed: receives the annotations that are read, for `coco.check`.

    Raises:
        UserError: the dataset is absent or wrong, or the config does not resize for evaluation.
    """
    changes: dict[str, Any] = {}
    content: dict[str, Any] = {}
    sizes: dict[Any, tuple[int, int]]
    if is_segmentor(cfg):
        changes, sizes = segmentation_layout(cfg, root)
        num_val = len(find_files(root / cfg.val_dataloader.dataset.data_prefix.img_path))
    else:
        parsed = {} if parsed is None else parsed
        content, sizes = training_annotations(cfg, root, parsed)
        num_val = len(_annotations(root, cfg.val_dataloader.dataset.ann_file, parsed)['images'])
    if not sizes:
        raise UserError(f'{root} holds no image to train on')
    scale = image_scale(
        cfg, np.array(list(sizes.values())), object_sides(content, sizes), image_size
    )
    length = schedule.Schedule(len(sizes), num_val, epochs, processes)
    changes.update(schedule.options(cfg, length, from_scratch))
    changes.update(resizing(cfg, scale))
    if from_scratch and cfg.model.type == 'RetinaNet':
        console.say('two convolutions in each tower of the head: they learn sooner from scratch')
        changes['model.bbox_head.stacked_convs'] = 2
    console.say(
        f'{len(sizes):,} images: {length.epochs} epochs, batch size '
        f'{length.batch_size}{f" on each of {processes} processes" if processes > 1 else ""}, '
        f'learning rate {changes["optim_wrapper.optimizer.lr"]:g}, images resized to fit '
        f'{scale[0]} × {scale[1]}'
    )
    _note_elongated(sizes, content, scale)
    if content:
        changes.update(fit_anchors(cfg, content, sizes, scale))
    if not augment and augmentation.mixes_images(cfg):
        console.say('augmentation light: mosaic and mixup pay in long trainings (--augment strong)')
        augment = 'light'
    if augment or patience:
        from mmengine.config import ConfigDict

        fitted = copy.deepcopy(cfg)
        fitted.merge_from_dict(copy.deepcopy(changes))
        replaced = augmentation.options(fitted, augment, length.epochs) if augment else {}
        if patience:
            replaced['custom_hooks'] = [
                *replaced.get('custom_hooks', fitted.get('custom_hooks', [])),
                dict(type='EffViMEarlyStoppingHook', monitor=main_metric(cfg), patience=patience),
            ]
        changes = {
            key: value
            for key, value in changes.items()
            if not key.startswith(tuple(f'{whole}.' for whole in replaced))
        } | ConfigDict(replaced).to_dict()
    return changes


def main_metric(cfg: Config) -> str:
    """The metric by which the best checkpoint is chosen: mIoU, or the first type's mAP."""
    if is_segmentor(cfg):
        return 'mIoU'
    metric = cfg.val_evaluator.get('metric', 'bbox')
    return f'coco/{metric if isinstance(metric, str) else metric[0]}_mAP'


def _annotations(root: Path, name: str, parsed: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The content of an annotation file, which is read once.

    Raises:
        UserError: as `coco.read_annotations`.
    """
    path = (root / name).resolve()
    if path not in parsed:
        parsed[path] = coco.read_annotations(root / name, root)
    return parsed[path]


def _note_elongated(
    sizes: dict[Any, tuple[int, int]], content: dict[str, Any], scale: tuple[int, int]
) -> None:
    """Name the images of which resizing leaves little: those many times as long as wide."""
    long = {key: size for key, size in sizes.items() if max(size) > ELONGATED * min(size)}
    if not long:
        return
    key, size = max(long.items(), key=lambda item: max(item[1]) / min(item[1]))
    names = {image['id']: image['file_name'] for image in content.get('images', [])}
    factor = anchors.resize_factors(np.array([size]), scale)[0]
    console.note(
        f'{len(long):,} images are more than {ELONGATED} times as long as wide, e.g. '
        f'{names.get(key, key)} ({size[0]} × {size[1]}): resized, its short side has '
        f'{min(size) * factor:.0f} pixels, and small objects vanish; cut such images into tiles'
    )


def training_annotations(
    cfg: Config, root: Path, parsed: dict[Path, dict[str, Any]]
) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """The training annotations, and sizes by id of the images that mmdet does not filter out.

    Raises:
        UserError: there are none, or as `coco.read_annotations`.
    """
    dataset = cfg.train_dataloader.dataset
    has_classes = (root / masks.CLASSES).is_file()
    for name in (dataset.ann_file, cfg.val_dataloader.dataset.ann_file):
        if root.is_dir() and not (root / name).is_file() and not has_classes:
            raise UserError(
                f'{root / name} not found: --data needs a train and a val split in the layout of '
                f'effvim data. Run "effvim data split {root} ready" (or effvim data convert, if it '
                f'is split already), then pass --data ready'
            )
    content = _annotations(root, dataset.ann_file, parsed)
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


def image_scale(
    cfg: Config,
    sizes: np.ndarray,
    sides: np.ndarray | None = None,
    image_size: int | None = None,
) -> tuple[int, int]:
    """The scale for evaluation: the config's, or a smaller one that suffices for the data.

    It is smaller if the config's enlarged most images too much, or if nearly all objects would
    still not be small: training and prediction are faster in proportion to the area.

    Args:
        cfg: the config.
        sizes: widths and heights of the images, N 2.
        sides: of each object the square root of its area, as a fraction of the long side of its
            image, M; none if that is not known.
        image_size: the longest side, instead of one that suffices.

    Returns:
        Long side and short side, as the config orders them.
    """
    scale = _evaluation_resize(cfg).scale
    if image_size:
        return _multiply(scale, image_size / max(scale))
    long_sides = anchors.resize_factors(sizes, scale) * sizes.max(1)
    factor = min(1.0, MAX_ENLARGEMENT / float(np.median(anchors.resize_factors(sizes, scale))))
    if sides is not None and len(sides):
        small = float(np.quantile(sides, SMALL_OBJECTS) * np.median(long_sides))
        factor = min(factor, max(SUFFICIENT_SIDE / small, MIN_LONG_SIDE / max(scale)))
    return _multiply(scale, factor)


def object_sides(content: dict[str, Any], sizes: dict[Any, tuple[int, int]]) -> np.ndarray:
    """Square roots of the areas of boxes, as fractions of the long sides of their images."""
    return np.array(
        [
            math.sqrt(a['bbox'][2] * a['bbox'][3]) / max(sizes[a['image_id']])
            for a in content.get('annotations', [])
            if not a.get('iscrowd') and a['image_id'] in sizes and min(a['bbox'][2:]) >= 1
        ]
    )


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
