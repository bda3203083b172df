"""Write a dataset in one of the formats."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import UserError
from effvim.files import new_directory
from effvim.formats import coco, masks, voc, yolo
from effvim.formats.dataset import Dataset

WRITERS = {'coco': coco.write, 'yolo': yolo.write, 'voc': voc.write, 'masks': masks.write}


def write(dataset: Dataset, target: Path, kind: str) -> list[str]:
    """Write `dataset` with its images into a new directory; return what the format cannot hold.

    Args:
        dataset: what to write.
        target: the directory, which must not exist.
        kind: one of `WRITERS`.

    Raises:
        UserError: the directory exists or cannot be written, or the format would confuse names.
    """
    has_masks = any(image.mask for image in dataset.images())
    if has_masks != (kind == 'masks'):
        raise UserError(
            f'--to {kind}: masks cannot become boxes, nor boxes masks; this dataset has '
            f'{"masks" if has_masks else "boxes"}'
        )
    with new_directory(target) as directory:
        WRITERS[kind](dataset, directory)
    if kind in ('coco', 'masks'):
        return []
    instances = [
        i for images in dataset.splits.values() for image in images for i in image.instances
    ]
    dropped = {'crowds': sum(i.crowd for i in instances)}
    if kind == 'voc':
        dropped['segmentations'] = sum(
            i.segmentation is not None and not i.crowd for i in instances
        )
    return [f'{count} {what}' for what, count in dropped.items() if count]
