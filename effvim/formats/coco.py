"""Reading COCO JSON. The file itself is read by effvim/coco.py, which says which entry is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.formats.dataset import DataSet, Picture, Thing, check_size, part_of, picture_of

BESIDE = '_annotations.coco.json'  # Roboflow's, in the folder of a part's pictures

OTHERS = ('captions_', 'image_info_', 'panoptic_', 'person_keypoints_', 'stuff_')  # beside COCO's


def files_of(root: Path) -> list[Path]:
    """The annotation files of a folder, of COCO's own those of objects."""
    files = sorted((root / 'annotations').glob('*.json'))
    return [file for file in files if not file.name.startswith(OTHERS)] or sorted(
        root.glob(f'*/{BESIDE}')
    )


def read(root: Path, files: Sequence[Path]) -> DataSet:
    """The data set that annotation files describe, each a part named after it.

    Raises:
        UserError: a file or a picture cannot be read or is wrong; they do not fit each other.
    """
    by_part: dict[str, Path] = {}
    for path in files:
        part = part_of(_name(path)) or 'all'
        if part in by_part or (by_part and 'all' in (part, *by_part)):
            raise UserError(
                f'{path} is a second file of the part {part}: name each train, val or test'
            )
        by_part[part] = path
    parts: dict[str, list[Picture]] = {}
    classes: tuple[str, ...] = ()
    for part, path in by_part.items():
        content = coco.read_annotations(path, root)
        own = tuple(category['name'] for category in content['categories'])
        if classes and own != classes:
            raise UserError(
                f'{path} and {files[0]} do not list the same categories in the same order'
            )
        classes, name = own, _name(path)
        parts[part] = _part(
            path,
            [
                root / name,
                root / f'{name}2017',
                root / 'images' / name,
                root / 'images',
                path.parent,
                root,
            ],
            content,
        )
    return DataSet(root, classes, parts)


def _name(path: Path) -> str:
    return path.parent.name if path.name == BESIDE else path.stem.removeprefix('instances_')


def _part(path: Path, folders: Sequence[Path], content: dict[str, Any]) -> list[Picture]:
    label = {category['id']: i for i, category in enumerate(content['categories'])}
    pictures = {}
    for image in content['images']:
        name = image['file_name']
        if Path(name).is_absolute() or '..' in Path(name).parts or '\0' in name:
            raise UserError(f'{path}: picture {name!r} is not below {folders[-1]}')
        file = next((f / name for f in folders if (f / name).is_file()), None)
        if not file:
            places = ', '.join(dict.fromkeys(str(f) for f in folders if f.is_dir()))
            raise UserError(f'{path}: picture {name} not found in {places}')
        pictures[image['id']] = picture_of(file, name)
        check_size(pictures[image['id']], (image['width'], image['height']), path)
    for entry in content['annotations']:
        if entry['image_id'] not in pictures or entry['category_id'] not in label:
            raise UserError(
                f'{path}: annotation {entry["id"]} is of image {entry["image_id"]} and '
                f'category {entry["category_id"]}, which the file does not list'
            )
        crowd = entry.get('iscrowd') or 0
        if crowd not in (0, 1):
            raise UserError(
                f'{path}: annotation {entry["id"]}: iscrowd must be 0 or 1, got {crowd!r:.99}'
            )
        x, y, w, h = entry['bbox']
        picture, outline = pictures[entry['image_id']], entry.get('segmentation') or None
        problem = outline and coco.outline_problem(outline, picture.width, picture.height)
        if problem:
            raise UserError(f'{path}: the mask of annotation {entry["id"]} {problem}')
        # some exporters write 0, and mmdet leaves such objects out
        area = entry['area'] if entry['area'] > 0 else None
        picture.things.append(
            Thing(label[entry['category_id']], (x, y, x + w, y + h), outline, bool(crowd), area)
        )
    return list(pictures.values())
