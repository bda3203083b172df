"""`effvim train --data`: fit a config to a dataset; the changes are options of that config.

They are remembered in the checkpoint, so that later commands need no data to know them.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import UserError
from effvim import console
from effvim.config import augmentation
from effvim.config.structure import LOADERS, every_step, is_segmentor
from effvim.datasets import coco
from effvim.formats import anchors, masks, schedule
from effvim.formats.image_scale import image_scale, note_elongated, resizing
from effvim.images import find_files, image_size

if TYPE_CHECKING:
    from mmengine.config import Config

ROIS = 64

# Keys that a user may set next to --data.
BATCH_SIZE, LEARNING_RATE = 'train_dataloader.batch_size', 'optim_wrapper.optimizer.lr'


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
    chosen: Container[str] = (),
    parsed: dict[Path, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Changes that fit `cfg` to the dataset in `root`, as `--cfg-options` would make them.

    Prints what it decides.

    Args:
        cfg: the config, not changed.
        root: a dataset as `effvim data split` or `effvim data convert` writes it.
        from_scratch: whether the run starts from randomly initialised weights.
        epochs: length of the training (default: by the number of images).
        image_size: the long side that most images are resized to (default: by their size).
        augment: one of `augmentation.PRESETS` (default: `augmentation.default`).
        patience: stop after so many validations without improvement (default: never).
        processes: number of processes that share each batch.
        chosen: keys that the user has set in `cfg`: a batch size and a learning rate stay.
        parsed: receives the annotations that are read, for `coco.check`.

    Raises:
        UserError: the dataset is absent or wrong, or the config does not resize for evaluation.
    """
    if not root.is_dir():
        raise UserError(
            f'--data {root}: no such directory: pass one that effvim data split or effvim data '
            f'convert has written'
        )
    changes: dict[str, Any] = {}
    content: dict[str, Any] = {}
    sizes: dict[Any, tuple[int, int]]
    if is_segmentor(cfg):
        changes, sizes = segmentation_layout(cfg, root)
        folder = root / cfg.val_dataloader.dataset.data_prefix.img_path
        num_val = len(find_files(folder)) if folder.is_dir() else 0  # `check_data` says so
    else:
        parsed = {} if parsed is None else parsed
        content, sizes = training_annotations(cfg, root, parsed)
        num_val = len(_annotations(root, cfg.val_dataloader.dataset.ann_file, parsed)['images'])
    if not sizes:
        raise UserError(f'{root} holds no image to train on')
    scale = image_scale(cfg, np.array(list(sizes.values())), image_size)
    by_iteration = 'max_iters' in cfg.train_cfg
    length = schedule.Schedule(
        len(sizes),
        num_val,
        epochs,
        processes,
        by_iteration,
        cfg.train_dataloader.batch_size if BATCH_SIZE in chosen else None,
        cfg.optim_wrapper.get('accumulative_counts') or 1,
    )
    rate = cfg.optim_wrapper.optimizer.lr if LEARNING_RATE in chosen else None
    changes.update(schedule.options(cfg, length, from_scratch, rate))
    changes.update(resizing(cfg, scale))
    if from_scratch and cfg.model.type == 'RetinaNet':
        console.say(
            'head: two convolutions instead of four in front of its outputs, which learn sooner'
        )
        changes['model.bbox_head.stacked_convs'] = 2
    changes.update(fewer_rois(cfg))
    console.say(
        f'{len(sizes):,} images: {length.epochs} epochs, batch size '
        f'{length.batch_size}{f" on each of {processes} processes" if processes > 1 else ""}, '
        f'learning rate {changes[LEARNING_RATE]:g}, images resized to fit '
        f'{scale[0]} × {scale[1]}, {length.validations} validation{"s" * (length.validations > 1)}'
    )
    note_elongated(sizes, content, scale)
    if content:
        changes.update(fit_anchors(cfg, content, sizes, scale))
    lists = replacements(cfg, changes, augment, patience, length)
    return {
        key: value
        for key, value in changes.items()
        if not key.startswith(tuple(f'{whole}.' for whole in lists))
    } | lists


def replacements(
    cfg: Config,
    changes: dict[str, Any],
    augment: str | None,
    patience: int | None,
    length: schedule.Schedule,
) -> dict[str, Any]:
    """The lists that augmentation and early stopping put in place of the config's, by key.

    Args:
        cfg: the config, not changed.
        changes: those so far.
        augment: as in `options`.
        patience: as in `options`.
        length: the schedule.

    Raises:
        UserError: as `augmentation.options`.
    """
    if not augment:
        augment = augmentation.default(cfg)
        if augment != 'config':
            console.say(
                f'augmentation: {augment}, since mosaic and mixup pay in long trainings only; '
                f'--augment config keeps them'
            )
    from mmengine.config import ConfigDict

    fitted = copy.deepcopy(cfg)
    fitted.merge_from_dict(copy.deepcopy(changes))
    lists: dict[str, Any] = {}
    if (
        augment == 'strong'
        and not is_segmentor(cfg)
        and not augmentation.last_epochs(length.epochs)
    ):
        console.note('--augment strong: the last two epochs are light, hence all of this run')
    if augment != 'config':
        lists = augmentation.options(fitted, augment, length.epochs)
    if patience:
        if patience + 1 >= length.validations:  # the first one cannot be without improvement
            console.note(
                f'--patience {patience} cannot end the run early: the number of its validations is '
                f'{length.validations}'
            )
        lists['custom_hooks'] = [
            *lists.get('custom_hooks', fitted.get('custom_hooks') or []),
            dict(type='EffViMEarlyStoppingHook', patience=patience),
        ]
    plain: dict[str, Any] = ConfigDict(lists).to_dict()
    return plain


def fewer_rois(cfg: Config) -> dict[str, Any]:
    """On a CPU, fewer RoIs of each image for the heads of a two-stage detector to train on.

    The recipe's 512 take most of a step there: on images of 352 pixels about 15 s instead of 3 s.
    """
    stages = (cfg.model.get('train_cfg') or {}).get('rcnn')
    if not stages:
        return {}
    import torch

    if torch.cuda.is_available():
        return {}
    keys = [f'rcnn.{i}' for i in range(len(stages))] if isinstance(stages, list) else ['rcnn']
    changes = {f'model.train_cfg.{key}.sampler.num': ROIS for key in keys}
    console.say(
        f'{ROIS} RoIs of each image are sampled, since without a GPU more take too long; '
        f'to override: --cfg-options {next(iter(changes))}=N'
    )
    return changes


def replaced(options: Mapping[str, Any]) -> dict[str, str]:
    """Options that change a list which augmentation or early stopping replaces, and the list."""
    return {
        key: whole
        for key in options
        for whole in ('train_dataloader.dataset.pipeline', 'custom_hooks')
        if f'{key.removeprefix("+")}.'.startswith(f'{whole}.')
    }


def _annotations(root: Path, name: str, parsed: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The content of an annotation file, which is read once.

    Raises:
        UserError: as `coco.read_annotations`.
    """
    path = (root / name).resolve()
    if path not in parsed:
        parsed[path] = coco.read_annotations(root / name, root)
    return parsed[path]


def require(path: Path, root: Path) -> None:
    """Check that a part of the dataset in `root` is there.

    Raises:
        UserError: it is not; says how to write a dataset in this layout.
    """
    if not path.exists():
        raise UserError(
            f'{path} not found: --data needs a train and a val split in the layout of effvim data. '
            f'Run "effvim data split {root} ready" (or effvim data convert, if it is split '
            f'already), then pass --data ready'
        )


def training_annotations(
    cfg: Config, root: Path, parsed: dict[Path, dict[str, Any]]
) -> tuple[dict[str, Any], dict[Any, tuple[int, int]]]:
    """The training annotations, and sizes by id of the images that mmdet does not filter out.

    Raises:
        UserError: there are none, or as `coco.read_annotations`.
    """
    dataset = cfg.train_dataloader.dataset
    if not (root / 'images/training').is_dir():  # masks, which `coco` names as the mistake
        for name in (dataset.ann_file, cfg.val_dataloader.dataset.ann_file):
            require(root / name, root)
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
    folder = root / cfg.train_dataloader.dataset.data_prefix.img_path
    require(folder, root)
    classes = masks.read_classes(root)
    files = find_files(folder)
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
