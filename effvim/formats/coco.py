"""COCO JSON: read and written. `effvim.datasets.coco` checks the fields of the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    check_size,
    copy_image,
    open_image,
    split_named,
)

ROBOFLOW = '_annotations.coco.json'  # in the directory of a split's images

# COCO's own files of other tasks, in the same directory as those of instances.
OTHER_TASKS = ('captions_', 'image_info_', 'panoptic_', 'person_keypoints_', 'stuff_')


def annotation_files(root: Path) -> list[Path]:
    """The annotation files in a directory; empty if it holds no COCO dataset."""
    files = sorted((root / 'annotations').glob('*.json'))
    instances = [file for file in files if not file.name.startswith(OTHER_TASKS)]
    return instances or sorted(root.glob(f'*/{ROBOFLOW}'))


def read(root: Path, files: Sequence[Path]) -> Dataset:
    """Read the dataset that annotation files describe, each a split named after its file.

    Raises:
        UserError: a file or an image cannot be read or is wrong; the files do not fit each other.
    """
    file_of: dict[str, Path] = {}
    for path in files:
        split = split_named(_name(path)) or 'all'
        if split in file_of or (file_of and 'all' in (split, *file_of)):
            raise UserError(
                f'{path} is a second file of the split {split}: name each train, val or test'
            )
        file_of[split] = path
    splits: dict[str, list[AnnotatedImage]] = {}
    classes: tuple[str, ...] = ()
    for split, path in file_of.items():
        content = coco.read_annotations(path, root)
        own = tuple(category['name'] for category in content['categories'])
        if classes and own != classes:
            raise UserError(
                f'{path} and {files[0]} do not list the same categories in the same order'
            )
        classes = own
        splits[split] = _read_split(path, root, content)
    return Dataset(root, classes, splits)


def _name(path: Path) -> str:
    return path.parent.name if path.name == ROBOFLOW else path.stem.removeprefix('instances_')


def _read_split(path: Path, root: Path, content: dict[str, Any]) -> list[AnnotatedImage]:
    name = _name(path)
    folders = (
        root / name,
        root / f'{name}2017',
        root / 'images' / name,
        root / 'images',
        path.parent,
        root,
    )
    label_of = {category['id']: label for label, category in enumerate(content['categories'])}
    images = {image['id']: _read_image(path, folders, image) for image in content['images']}
    for annotation in content['annotations']:
        image_id, category_id = annotation['image_id'], annotation['category_id']
        if image_id not in images or category_id not in label_of:
            raise UserError(
                f'{path}: annotation {annotation["id"]} is of image {image_id} and '
                f'category {category_id}, which the file does not list'
            )
        instance = _read_instance(path, annotation, label_of[category_id], images[image_id])
        images[image_id].instances.append(instance)
    return list(images.values())


def _read_image(path: Path, folders: Sequence[Path], image: dict[str, Any]) -> AnnotatedImage:
    """An image, in the first of `folders` that has it."""
    name = image['file_name']
    if Path(name).is_absolute() or '..' in Path(name).parts or '\0' in name:
        raise UserError(f'{path}: image {name!r} is not below {folders[-1]}')
    file = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if not file:
        places = ', '.join(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))
        raise UserError(f'{path}: image {name} not found in {places}')
    opened = open_image(file, name)
    check_size(opened, (image['width'], image['height']), path)
    return opened


def _read_instance(
    path: Path, annotation: dict[str, Any], label: int, image: AnnotatedImage
) -> Instance:
    crowd = annotation.get('iscrowd') or 0
    if crowd not in (0, 1):
        raise UserError(
            f'{path}: annotation {annotation["id"]}: iscrowd must be 0 or 1, got {crowd!r:.99}'
        )
    segmentation = annotation.get('segmentation') or None
    if segmentation:
        problem = coco.segmentation_problem(segmentation, image.width, image.height)
        if problem:
            raise UserError(f'{path}: the mask of annotation {annotation["id"]} {problem}')
    x, y, w, h = annotation['bbox']
    # some exporters write 0, and mmdet ignores such objects
    area = annotation['area'] if annotation['area'] > 0 else None
    return Instance(label, (x, y, x + w, y + h), segmentation, bool(crowd), area)


def write(dataset: Dataset, directory: Path) -> None:
    """Write annotations/instances_*2017.json, and the images into *2017/."""
    categories = [{'id': i, 'name': name} for i, name in enumerate(dataset.classes, 1)]
    for split, annotated in dataset.splits.items():
        name = f'{split}2017'
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in annotated:
            copy_image(image, directory / name)
            images.append(
                {
                    'id': len(images) + 1,
                    'file_name': image.name,
                    'width': image.width,
                    'height': image.height,
                }
            )
            for instance in image.instances:
                x1, y1, x2, y2 = instance.box
                annotation = {
                    'id': len(annotations) + 1,
                    'image_id': len(images),
                    'category_id': instance.label + 1,
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': _area(instance, image),
                    'iscrowd': int(instance.crowd),
                }
                if instance.segmentation:
                    annotation['segmentation'] = instance.segmentation
                annotations.append(annotation)
        content = {'images': images, 'annotations': annotations, 'categories': categories}
        path = directory / 'annotations' / f'instances_{name}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content) + '\n')


def _area(instance: Instance, image: AnnotatedImage) -> float:
    """In pixels, as COCO counts it: of the segmentation, where there is one."""
    if instance.area is not None:
        return instance.area
    if instance.segmentation:
        mask = coco.encode_mask(instance.segmentation, image.width, image.height)
        return float(rle.area(mask))
    x1, y1, x2, y2 = instance.box
    return (x2 - x1) * (y2 - y1)
