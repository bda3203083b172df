"""Detect the format of a dataset, and read it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from backbone.errors import UserError
from effvim.formats import (
    coco,
    label_studio,
    masks,
    object_masks,
    panoptic,
    voc,
    yolo,
    yolo_plain,
)
from effvim.formats.dataset import AnnotatedImage, Dataset
from effvim.formats.findings import Findings
from effvim.formats.places import subfolders, visible_files
from effvim.images import IMAGE_SUFFIXES, is_hidden

LAYOUTS = (
    'data.yaml (YOLO), or labels/*.txt and classes.txt (YOLO), annotations/*.json or '
    '*/_annotations.coco.json (COCO), Annotations/*.xml or *.xml next to the images (Pascal VOC), '
    'or images/, masks/*.png and classes.txt'
)

DEPTH = 3  # directories below the given one in which a dataset is looked for

# What a file of these kinds means: the nearest layout.
HINTS = {
    '.txt': 'label files of YOLO need the names of their classes: write classes.txt, one a line',
    '.csv': 'CSV files are not read: convert them to COCO or Pascal VOC',
    '.zip': 'unpack the archive first',
    '.tfrecord': 'TFRecord files are not read: export the dataset as COCO',
    '.json': 'no JSON file there is COCO: such files have images, annotations and categories',
    '.xml': 'the XML files are not read as Pascal VOC',
    '.png': 'masks are expected in masks/, next to images/',
}


def read(source: Path, findings: Findings, colors: Path | None = None) -> Dataset:
    """Read the dataset in a directory, or the one that a YAML or JSON file describes.

    Args:
        source: the directory, or one above it, or the file.
        findings: receives what is wrong with images and annotations, and what was assumed.
        colors: table of the classes of colours or values of masks.

    Raises:
        UserError: its format is unknown, nothing of it can be read, or `colors` has no use.
    """
    try:
        if not source.exists():
            raise UserError(f'{source} not found: name the directory of a dataset: {LAYOUTS}')
        if source.is_file():
            dataset = _read_file(source, findings)
        else:
            dataset = _read_folder(source, findings, colors)
    except OSError as error:
        raise UserError(f'{error.filename or source} cannot be read: {error.strerror}') from error
    if colors and any(not _is_coded_by(colors, image) for image in dataset.images()):
        raise UserError(
            f'--colors {colors}: {source} is not read as a directory of images with masks, so '
            f'nothing uses this table: drop the flag'
        )
    return dataset


def _is_coded_by(table: Path, image: AnnotatedImage) -> bool:
    return bool(image.mask and image.mask.coding and image.mask.coding.source == table)


def _read_file(source: Path, findings: Findings) -> Dataset:
    suffix = source.suffix.lower()
    if suffix in yolo.YAML:
        return yolo.read(source, findings)
    if suffix == '.json':
        folder = source.parent
        root = folder.parent if folder.name.lower() in coco.ANNOTATIONS else folder
        if source.name.startswith(panoptic.PREFIX):
            return panoptic.read(root, [source], findings)
        if label_studio.is_export(source):
            return label_studio.read(source, findings)
        return coco.read(root, [source], findings)
    hint = HINTS.get(suffix, 'pass a directory, its data.yaml or its JSON file')
    raise UserError(f'{source} is not a dataset: {hint}')


def _read_folder(source: Path, findings: Findings, colors: Path | None) -> Dataset:
    level = [source]
    for depth in range(DEPTH + 1):
        found = [
            (folder, dataset)
            for folder in level
            if (dataset := _read_layout(folder, findings, colors))
        ]
        if len(found) > 1:
            names = ', '.join(str(folder) for folder, _ in found[:4])
            raise UserError(f'{source} holds several datasets, {names}: pass one of them')
        if found:
            folder, dataset = found[0]
            if depth:
                findings.note(f'the dataset is in {folder}')
            return dataset
        level = [child for folder in level for child in subfolders(folder)][:64]
    raise UserError(
        f'{source} is not a dataset of a known format. It holds {_contents(source)}. '
        f'{_hint(source)}Expected is {LAYOUTS}'
    )


def _read_layout(root: Path, findings: Findings, colors: Path | None) -> Dataset | None:
    """The dataset in this directory, None if it has no known layout."""
    path = yolo.find_yaml(root)
    if path:
        return yolo.read(path, findings)
    files = coco.annotation_files(root)
    if files:
        return coco.read(root, files, findings)
    export = next((f for f in visible_files(root, ['.json']) if label_studio.is_export(f)), None)
    if export:
        return label_studio.read(export, findings)
    files = panoptic.annotation_files(root)
    if files:
        return panoptic.read(root, files, findings)
    objects = object_masks.find_places(root)
    if objects:
        return object_masks.read(root, objects, findings)
    annotations = voc.find_folder(root)
    has_table = colors or (root / masks.CLASSES).is_file() or masks.find_table(root)
    places = [] if annotations and not has_table else masks.find_places(root)
    if places:
        return masks.read(root, places, findings, colors)
    if annotations:
        return voc.read(root, annotations, findings)
    plain = yolo_plain.find(root)
    return yolo_plain.read(root, plain, findings) if plain else None


def _contents(root: Path) -> str:
    """What is seen in a directory, in words."""
    entries = [entry for entry in sorted(root.iterdir()) if not is_hidden(entry.name)]
    folders = [f'{entry.name}/' for entry in entries if entry.is_dir()]
    counts = Counter(entry.suffix.lower() or entry.name for entry in entries if entry.is_file())
    parts = folders[:6] + (['…'] if len(folders) > 6 else [])
    parts += [f'{count:,} {kind}' for kind, count in counts.most_common(5)]
    return ', '.join(parts) or 'nothing'


def _hint(root: Path) -> str:
    """What is nearest to a layout, a sentence with a blank behind it; '' if nothing is."""
    seen: Counter[str] = Counter()
    for folder in (root, *subfolders(root)):
        seen.update(path.suffix.lower() for path in folder.iterdir() if path.is_file())
    kinds = [kind for kind in HINTS if seen[kind]]
    if kinds:
        return f'{HINTS[kinds[0]][0].upper()}{HINTS[kinds[0]][1:]}. '
    if any(seen[suffix] for suffix in IMAGE_SUFFIXES):
        return 'There are images, but no annotations. '
    return ''
