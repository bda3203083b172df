"""COCO JSON: read and written. `effvim.formats.coco_fields` completes the fields of the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.formats import coco_fields
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    check_size,
    copy_image,
    open_image,
    split_in_name,
)
from effvim.formats.findings import Findings, Kind
from effvim.formats.places import children, image_places, split_folders, visible_files
from effvim.images import UNREAD_SUFFIXES

# COCO's own files of other tasks, in the same directory as those of instances.
OTHER_TASKS = ('captions_', 'image_info_', 'panoptic_', 'person_keypoints_', 'stuff_')

KEYS = (b'"images"', b'"annotations"')

ANNOTATIONS = ('annotations', 'annotation', 'labels', 'ann')  # directories of JSON files


def annotation_files(root: Path) -> list[Path]:
    """The annotation files in a directory; empty if it holds no COCO dataset.

    They lie in annotations/, next to the images of each split, or in the directory itself.
    """
    own = _json_files(children(root, ANNOTATIONS))
    # with those that are damaged, which would be missing otherwise
    if any(file.name.startswith('instances_') or is_coco(file) for file in own):
        return own
    for folders in (split_folders(root), [root]):
        files = [file for file in _json_files(folders) if is_coco(file)]
        if files:
            return files
    return []


def _json_files(folders: Sequence[Path]) -> list[Path]:
    files = [file for folder in folders for file in visible_files(folder, ['.json'])]
    return [file for file in files if not file.name.startswith(OTHER_TASKS)]


def is_coco(path: Path) -> bool:
    """Whether a JSON file has the keys of COCO's; nothing is parsed."""
    content = path.read_bytes().removeprefix(b'\xef\xbb\xbf')
    return content.lstrip().startswith(b'{') and all(key in content for key in KEYS)


def read(root: Path, files: Sequence[Path], findings: Findings) -> Dataset:
    """Read the dataset that annotation files describe, each a split named after its file.

    Args:
        root: its directory.
        files: the annotation files.
        findings: receives what is wrong with images and annotations.

    Raises:
        UserError: a file cannot be read, or two describe one split.
    """
    file_of: dict[str, Path] = {}
    for path in files:
        split = split_in_name(_name(path, root)) or 'all'
        if split in file_of or (file_of and 'all' in (split, *file_of)):
            raise UserError(
                f'{path} is a second file of the split {split}, next to '
                f'{next(iter(file_of.values()))}: name each train, val or test, or pass one of '
                f'them itself'
            )
        file_of[split] = path
    contents, dropped = {}, {}
    for split, path in file_of.items():
        contents[split], dropped[split] = coco_fields.load(path, findings)
    classes = _classes(file_of, contents, findings)
    return Dataset(
        root,
        classes,
        {
            split: _read_split(file_of[split], root, content, dropped[split], classes, findings)
            for split, content in contents.items()
        },
    )


def _name(path: Path, root: Path) -> str:
    """What a file calls its split: its own name, or that of the directory of its images."""
    is_shared = path.parent != root and split_in_name(path.parent.name)
    if is_shared and not split_in_name(path.stem):
        return path.parent.name
    return path.stem.removeprefix('instances_')


def _classes(
    file_of: Mapping[str, Path], contents: Mapping[str, dict[str, Any]], findings: Findings
) -> tuple[str, ...]:
    """The names of all files, in the order of the first, without groups of other categories."""
    names: list[str] = []
    used, groups = set(), set()
    first = next(iter(file_of.values()))
    for split, content in contents.items():
        own = [category['name'] for category in content['categories']]
        new = [name for name in dict.fromkeys(own) if name not in names]
        if names and new:
            findings.note(
                f'{file_of[split]} lists categories that {first} does not: {coco.some(new)}'
            )
        twice = sorted({name for name in own if own.count(name) > 1})
        if twice:
            findings.note(
                f'{file_of[split]} lists categories of the same name more than once, each is one '
                f'class: {coco.some(twice)}'
            )
        if names and not new and list(dict.fromkeys(own)) != names[: len(set(own))]:
            findings.note(
                f'{file_of[split]} lists the categories in another order than {first}: they are '
                f'matched by name'
            )
        names += new
        ids = {annotation['category_id'] for annotation in content['annotations']}
        used |= {c['name'] for c in content['categories'] if c['id'] in ids}
        groups |= {
            c['supercategory']
            for c in content['categories']
            if isinstance(c.get('supercategory'), str) and c['supercategory'] != c['name']
        }
    parents = [name for name in names if name in groups and name not in used]
    if parents and len(parents) < len(names):
        findings.note(
            f'categories without annotations that are only the group of others are no classes: '
            f'{coco.some(parents)}'
        )
        names = [name for name in names if name not in parents]
    return tuple(names)


def _read_split(
    path: Path,
    root: Path,
    content: dict[str, Any],
    dropped: Sequence[coco_fields.Dropped],
    classes: Sequence[str],
    findings: Findings,
) -> list[AnnotatedImage]:
    label_of = {
        category['id']: classes.index(category['name'])
        for category in content['categories']
        if category['name'] in classes
    }
    folders = image_places(root, path.parent, _name(path, root))
    images: dict[Any, AnnotatedImage | None] = {}
    for image in content['images']:
        images[image['id']] = _read_image(path, folders, image, findings)

    def add(text: str, image_id: int | None) -> None:
        owner = images.get(image_id)
        findings.add(Kind.ANNOTATION, text, owner.path if owner else None)

    for image_id, text in dropped:
        add(text, image_id)
    for annotation in content['annotations']:
        image_id, category_id = annotation['image_id'], annotation['category_id']
        if image_id not in images or category_id not in label_of:
            add(
                f'{path}: annotation {annotation["id"]} is of image {image_id} and '
                f'category {category_id}, which the file does not list',
                image_id,
            )
            continue
        owner = images[image_id]
        if owner is not None:  # otherwise that is a defect already
            with findings.collect(Kind.ANNOTATION, owner.path):
                owner.instances.append(
                    _read_instance(path, annotation, label_of[category_id], owner)
                )
    return [image for image in images.values() if image]


def _read_image(
    path: Path, folders: Sequence[Path], image: dict[str, Any], findings: Findings
) -> AnnotatedImage | None:
    """An image, in the first of `folders` that has it; None if it is a defect."""
    name = image['file_name']
    if Path(name).is_absolute() or '..' in Path(name).parts or '\0' in name:
        text = f'{path}: image {name!r} is not below {folders[-1]}: write its path from there'
        findings.add(Kind.NOT_FOUND, text)
        return None
    file = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if not file:
        places = ', '.join(str(folder) for folder in folders)
        findings.add(
            Kind.NOT_FOUND, f'{path}: image {name} not found in {places}', folders[0] / name
        )
        return None
    if file.suffix.lower() in UNREAD_SUFFIXES:
        text = f'{file}: {file.suffix} files are not read: convert it to PNG or JPEG'
        findings.add(Kind.UNREADABLE, text, file)
        return None
    opened = None
    with findings.collect(Kind.UNREADABLE, file):
        opened = open_image(file, name)
    if opened is None:
        return None
    stated = coco_fields.stated_size(image)
    if stated is None:
        findings.assume('images have no usable width and height: they are read from the file', file)
    else:
        with findings.collect(Kind.SIZE, file):
            check_size(opened, stated, path)
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
    origin = f'{path}, annotation {annotation["id"]}'
    return Instance(label, (x, y, x + w, y + h), segmentation, bool(crowd), area, origin)


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
