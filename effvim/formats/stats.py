"""Statistics of a dataset, as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effvim.formats import anchors
from effvim.formats.dataset import AnnotatedImage, Dataset, count_instances
from effvim.formats.image_scale import image_scale

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.table import Table

QUANTILES = (5, 50, 95)  # %


def measure(dataset: Dataset, cfg: Config) -> dict[str, Any]:
    """Statistics by split, ready for JSON.

    Args:
        dataset: what is measured.
        cfg: its anchors are compared with the boxes, on images as `effvim train --data` resizes
            them.
    """
    return {
        'classes': list(dataset.classes),
        'splits': {
            split: _measure_masks(images, dataset.classes)
            if any(image.mask for image in images)
            else _measure_boxes(images, dataset.classes, cfg)
            for split, images in dataset.splits.items()
        },
    }


def _measure_boxes(
    images: list[AnnotatedImage], classes: tuple[str, ...], cfg: Config
) -> dict[str, Any]:
    pairs = [(image, i) for image in images for i in image.instances if not i.crowd]
    sides = np.array([(i.box[2] - i.box[0], i.box[3] - i.box[1]) for _, i in pairs])
    sides = sides.reshape(-1, 2)
    sizes = np.array([(image.width, image.height) for image in images])
    summary: dict[str, Any] = {
        'images': len(images),
        'without objects': sum(not image.instances for image in images),
        'boxes': len(pairs),
        'crowds': sum(i.crowd for image in images for i in image.instances),
        'segmentations': sum(i.segmentation is not None for _, i in pairs),
        'per class': count_instances(images, classes),
        'below 1 pixel': int((sides.min(1) < 1).sum()),
        'image width': _quantiles(sizes[:, 0]),
        'image height': _quantiles(sizes[:, 1]),
        'box side': _quantiles(np.sqrt(sides.prod(1))),
        'width / height': _quantiles(sides[:, 0] / np.maximum(sides[:, 1], 1e-9)),
    }
    generator = anchors.anchor_generator(cfg)
    if generator and pairs:
        image_sizes = np.array([(image.width, image.height) for image, _ in pairs])
        factors = anchors.resize_factors(image_sizes, image_scale(cfg, sizes))
        boxes = sides * factors[:, None]
        summary['anchors cover'] = anchors.coverage(boxes, anchors.anchor_sizes(generator[1]))
    return summary


def _measure_masks(images: list[AnnotatedImage], classes: tuple[str, ...]) -> dict[str, Any]:
    sizes = np.array([(image.width, image.height) for image in images])
    areas = np.zeros(len(classes))
    for image in images:
        for region in image.instances:
            areas[region.label] += region.area or 0
    num_pixels = float(sizes.prod(1).sum())
    return {
        'images': len(images),
        'ignored pixels': 1 - areas.sum() / num_pixels,
        'image width': _quantiles(sizes[:, 0]),
        'image height': _quantiles(sizes[:, 1]),
        # images that have the class, and its fraction of all pixels that are not ignored
        'per class': count_instances(images, classes),
        'fraction of pixels': dict(zip(classes, (areas / max(areas.sum(), 1)).tolist())),
    }


def _quantiles(values: np.ndarray) -> list[float] | None:
    """At `QUANTILES`; None for an empty array."""
    return [round(float(v), 2) for v in np.percentile(values, QUANTILES)] if len(values) else None


def table(summary: dict[str, Any]) -> Table:
    """The result of `measure` as a table, a column for each split."""
    from rich.table import Table

    result = Table('', *summary['splits'])
    splits = list(summary['splits'].values())
    for key in dict.fromkeys(
        key for split in splits for key in split if not isinstance(split[key], dict)
    ):
        result.add_row(
            f'{key} (5, 50, 95 %)' if isinstance(splits[0].get(key), list) else key,
            *(_text(split.get(key)) for split in splits),
        )
    result.add_section()
    for name in summary['classes']:
        result.add_row(name, *(_class_text(split, name) for split in splits))
    return result


def _class_text(split: dict[str, Any], name: str) -> str:
    if not split['per class'][name]:
        return 'none'
    fractions = split.get('fraction of pixels')
    count = f'{split["per class"][name]:,}'
    return f'{count} images, {fractions[name]:.1%}' if fractions else count


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(f'{v:.4g}' for v in value)
    return '–' if value is None else f'{value:.1%}' if isinstance(value, float) else f'{value:,}'
