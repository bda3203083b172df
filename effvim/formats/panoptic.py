"""COCO's panoptic format, PNG files of segments and a JSON file of their categories: as masks.

Every category is a class, things and stuff alike; pixels without a segment are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.datasets import ade, coco
from effvim.formats.dataset import AnnotatedImage, Dataset, split_in_name
from effvim.formats.findings import Findings, Kind
from effvim.formats.label_maps import Coding, LabelMap, read_labels
from effvim.formats.masks import regions
from effvim.formats.opening import open_images
from effvim.formats.places import children, image_places

PREFIX = 'panoptic_'


def annotation_files(root: Path) -> list[Path]:
    """The panoptic annotation files in a directory."""
    return sorted(
        file
        for folder in (*children(root, ['annotations']), root)
        for file in folder.glob(f'{PREFIX}*.json')
    )


def read(root: Path, files: Sequence[Path], findings: Findings) -> Dataset:
    """Read the dataset that annotation files describe, each a split named after its file.

    Raises:
        UserError: a file cannot be read, or two describe one split.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    classes: list[str] = []
    contents = {}
    for path in files:
        split = split_in_name(path.stem) or 'all'
        if split in contents:
            raise UserError(f'{path} is a second file of the split {split}: keep one of them')
        contents[split] = path, coco.parse(path)
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(contents[split][1].get(key), list):
                raise UserError(f'{path} has no list of {key}: it is not a panoptic file')
        for category in contents[split][1]['categories']:
            if category['name'] not in classes:
                classes.append(category['name'])
    for split, (path, content) in contents.items():
        splits[split] = _read_split(root, path, content, classes, findings)
    return Dataset(root, tuple(classes), splits)


def _read_split(
    root: Path, path: Path, content: dict[str, Any], classes: list[str], findings: Findings
) -> list[AnnotatedImage]:
    label_of = {c['id']: classes.index(c['name']) for c in content['categories']}
    names = {image['id']: image['file_name'] for image in content['images']}
    places = image_places(root, path.parent, path.stem.removeprefix(PREFIX))
    folders = [path.with_suffix(''), root / path.stem, *children(root, ['masks', 'panoptic'])]
    annotated = []
    for annotation in content['annotations']:
        name = names.get(annotation.get('image_id'), '')
        image_path = next((p / name for p in places if name and (p / name).is_file()), None)
        if image_path is None:
            findings.add(Kind.NOT_FOUND, f'{path}: image {name or annotation} not found')
            continue
        file = next((f for p in folders if (f := p / annotation['file_name']).is_file()), None)
        if file is None:
            text = f'{path}: mask {annotation["file_name"]} of image {name} not found'
            findings.add(Kind.NO_ANNOTATION, text, image_path)
            continue
        segments = annotation['segments_info']
        unknown = {s['category_id'] for s in segments} - label_of.keys()
        if unknown:
            text = f'{path}: {name} has segments of the category {unknown.pop()}, which is unknown'
            findings.add(Kind.ANNOTATION, text, image_path)
            continue
        labels_of = {s['id']: label_of[s['category_id']] for s in segments}
        coding = Coding({0: ade.UNLABELLED, **labels_of}, True, path)
        for image in open_images([image_path], image_path.parent, findings):
            label_map = LabelMap(file, coding)
            annotated.append(image._replace(name=name, mask=label_map))
            with findings.collect(Kind.MASK, image_path):
                labels = read_labels(label_map, (image.width, image.height), len(classes))
                image.instances.extend(regions(labels))
    return annotated
