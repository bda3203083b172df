"""Images with masks, whose pixels are classes: read, and written as training reads them.

A directory has images/, masks/ and classes.txt: a name a line, the first for value 0. Pixels of
value 255 are ignored. Other layouts, names and codings are read as well, see `find_places` and
`effvim.formats.label_maps`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from backbone.errors import UserError
from effvim.datasets import ade, coco
from effvim.datasets.boxes import box_around
from effvim.files import numbered_lines
from effvim.formats.dataset import (
    AnnotatedImage,
    Dataset,
    Instance,
    group_by_split,
    images_by_stem,
)
from effvim.formats.findings import Findings, Kind
from effvim.formats.label_maps import (
    TABLES,
    Coding,
    LabelMap,
    is_coded_as_labels,
    read_labels,
    read_table,
    values_of,
)
from effvim.formats.opening import open_images
from effvim.formats.places import (
    IMAGE_FOLDERS,
    by_split,
    children,
    listed_splits,
    split_folders,
)
from effvim.images import find_files, read_image

CLASSES = 'classes.txt'

# Directories of masks, in lower case.
MASK_FOLDERS = (
    *('masks', 'mask', 'annotations', 'ann_dir', 'segmentationclass', 'segmentationclasspng'),
    *('segmentationclassraw', 'labels', 'label', 'gt', 'groundtruth', 'ground_truth', 'gtfine'),
    *('targets', 'target', 'annots', 'annot', 'segmentations', 'semantic'),
)

# Behind the name of the directory of images, e.g. train/ and train_masks/.
MASK_ENDS = ('_masks', '_mask', 'masks', 'annot', '_annot', '_annotations', '_labels', '_gt')

SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.gif')  # of masks: JPEG changes values

LOSSY = ('.jpg', '.jpeg')

BACKGROUND = ('background', 'foreground')  # classes of masks of two values that nobody named

SAME_SUFFIX = {'.jpeg': '.jpg', '.tiff': '.tif'}

ADE_SPLITS = {'train': 'training', 'val': 'validation'}  # directories that the configs look for


class Place(NamedTuple):
    """A directory of images and that of their masks, of a split or of all."""

    split: str | None
    images: Path
    masks: Path


def find_places(root: Path) -> list[Place]:
    """The directories of images and masks; empty if this is no such dataset.

    They may lie next to each other, in each directory of a split, or be train/ and train_masks/.

    Raises:
        UserError: masks have no images, or two directories are of one split.
    """
    place = _pair(root)
    if place:
        return [Place(None, *place)]
    folders = split_folders(root)
    pairs = {folder: pair for folder in folders if (pair := _pair(folder))}
    if not pairs:
        pairs = {folder: (folder, masks) for folder in folders if (masks := _masks_of(folder))}
    return [Place(split, *pair) for split, pair in by_split(pairs).items()]


def _masks_of(images: Path) -> Path | None:
    """The directory of masks next to a directory of images, e.g. train_masks/ and train/."""
    found = children(images.parent, [f'{images.name.lower()}{end}' for end in MASK_ENDS])
    found = [masks for masks in found if find_files(masks, [*SUFFIXES, *LOSSY])]
    return found[0] if found and find_files(images) else None


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The directory of images and that of masks in `folder`."""
    masks = next(
        (
            masks
            for masks in children(folder, MASK_FOLDERS)
            if find_files(masks, SUFFIXES)
            or (masks.name.lower() in ('masks', 'mask') and find_files(masks, LOSSY))
        ),
        None,
    )
    images = next((c for c in children(folder, IMAGE_FOLDERS) if c != masks), None)
    if masks and not images and masks.name.lower() in ('masks', 'mask', 'segmentationclass'):
        raise UserError(f'{masks} holds masks, but there is no directory {folder / "images"}')
    return (images, masks) if masks and images else None


def read_classes(root: Path) -> tuple[str, ...]:
    """The names in classes.txt, in the order of their values.

    Raises:
        UserError: it is absent, or is not a list of names.
    """
    path = root / CLASSES
    if not path.is_file():
        raise UserError(
            f'{path} not found: it must name the classes of the masks, one a line, '
            f'the first for value 0'
        )
    lines = numbered_lines(path)
    names = tuple(line.strip() for line in lines.values())
    for value, number in enumerate(lines):
        if number != value + 1:
            raise UserError(
                f'{path}, line {value + 1} is empty: which class has the value {value}?'
            )
    if not 2 <= len(names) <= ade.UNLABELLED:
        raise UserError(f'{path} has {len(names)} names: needed are 2 to {ade.UNLABELLED}')
    return names


def find_table(root: Path) -> Path | None:
    """A table of colours or values in a directory."""
    files = {path.name.lower(): path for path in root.iterdir() if path.is_file()}
    return next((files[name] for name in TABLES if name in files), None)


def read(root: Path, places: Sequence[Place], findings: Findings, colors: Path | None) -> Dataset:
    """Read the dataset in a directory.

    Args:
        root: the directory.
        places: what `find_places` has found there.
        findings: receives what is wrong with images and masks.
        colors: table of the classes of colours or values (default: one of `TABLES`).

    Raises:
        UserError: classes or masks are absent.
    """
    pairs = [
        (place.split, image, mask)
        for place in places
        for image, mask in _pairs(place, findings).items()
    ]
    files = [mask for _, _, mask in pairs]
    classes, coding = _classes(root, files, findings, colors)
    annotated: dict[str | None, list[AnnotatedImage]] = {}
    opened = {
        image.path: image
        for place in places
        for image in open_images(
            [i for s, i, _ in pairs if s == place.split], place.images, findings
        )
    }
    for split, path, mask in pairs:
        if path not in opened:
            continue
        image, label_map = opened[path], LabelMap(mask, coding)
        annotated.setdefault(split, []).append(image._replace(mask=label_map))
        with findings.collect(Kind.MASK, path):
            labels = read_labels(label_map, (image.width, image.height), len(classes))
            image.instances.extend(regions(labels))
    if None not in annotated:
        return Dataset(
            root, classes, {split: images for split, images in annotated.items() if split}
        )
    images = annotated[None]
    splits, notes = listed_splits(root, images_by_stem(images, 'mask'))
    for note in notes:
        findings.note(note)
    return Dataset(root, classes, splits or group_by_split(images, places[0].images))


def _pairs(place: Place, findings: Findings) -> dict[Path, Path]:
    """The mask of each image, by names that are equal but for what all of them share.

    Raises:
        UserError: no image has a mask, or the masks are JPEG files.
    """
    images = _by_stem(find_files(place.images), place.images)
    masks = _by_stem(find_files(place.masks, SUFFIXES), place.masks)
    if not masks:
        raise UserError(
            f'{place.masks} holds JPEG files, which change the values of masks: save them as PNG'
        )
    if images and not images.keys() & masks.keys():
        shorter = _without_common_ends(images), _without_common_ends(masks)
        for own, other in ((images, shorter[1]), (shorter[0], masks), shorter):
            if own.keys() & other.keys():
                findings.note(
                    f'masks belong to images by their names without what all have in common, e.g. '
                    f'{next(iter(masks.values())).name}'
                )
                images, masks = dict(own), dict(other)
                break
        else:
            names = [coco.some((f.name for f in own.values()), 2) for own in (images, masks)]
            raise UserError(
                f'no image in {place.images} has a mask of the same name in {place.masks}: '
                f'{"; ".join(names)}'
            )
    for stem, path in images.items():
        if stem not in masks:
            text = f'{path} has no partner of the same name in {place.masks}: add a mask'
            findings.add(Kind.NO_ANNOTATION, text, path)
    for stem, path in masks.items():
        if stem not in images:
            text = f'mask {path} has no partner of the same name in {place.images}: remove it'
            findings.add(Kind.NO_IMAGE, text)
    return {images[stem]: masks[stem] for stem in images if stem in masks}


def _by_stem(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Files by their name below `folder` without suffix.

    Raises:
        UserError: two files have the same.
    """
    by_stem: dict[str, Path] = {}
    for file in files:
        stem = file.relative_to(folder).with_suffix('').as_posix()
        if stem in by_stem:
            raise UserError(f'{by_stem[stem]} and {file} would share one mask: rename one of them')
        by_stem[stem] = file
    return by_stem


def _without_common_ends(files: Mapping[str, Path]) -> dict[str, Path]:
    """Files by their stems without what all stems have in common at their end and beginning.

    A common end begins at a letter, or at - or _ or a dot: 001_mask becomes 001. Of a single file
    it is what stands behind its last _ or -.
    """
    stems = list(files)
    if len(stems) == 1:
        return {**{stems[0].rpartition(mark)[0]: files[stems[0]] for mark in '_-'}, **files}
    end = _common_prefix([stem[::-1] for stem in stems])[::-1].rpartition('/')[2]
    start = next((i for i, letter in enumerate(end) if letter in '_-. '), len(end))
    end = end[start:]
    names = [stem.rpartition('/')[2] for stem in stems]
    begin = _common_prefix(names)
    begin = begin[: max((begin.rfind(mark) + 1 for mark in '_-. '), default=0)]
    shorter = {}
    for stem, file in files.items():
        folder, slash, name = stem.rpartition('/')
        shorter[f'{folder}{slash}{name.removeprefix(begin).removesuffix(end)}'] = file
    return shorter if len(shorter) == len(files) else dict(files)


def _common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return next((first[:i] for i, letter in enumerate(first) if letter != last[i : i + 1]), first)


def _classes(
    root: Path, masks: Sequence[Path], findings: Findings, colors: Path | None
) -> tuple[tuple[str, ...], Coding | None]:
    """The classes and the coding of the masks; None if their values are labels.

    Raises:
        UserError: the classes are unknown.
    """
    has_names, found = (root / CLASSES).is_file(), find_table(root)
    table = colors or (None if has_names else found)
    if table:
        return read_table(table)
    if not has_names:
        return _unnamed_classes(root, masks, findings)
    if found:
        findings.note(
            f'{found} is ignored, since {root / CLASSES} names the classes: pass --colors {found} '
            f'to use it instead'
        )
    classes = read_classes(root)
    values: set[int] = set()
    for mask in masks:
        try:
            values |= values_of(mask)
        except UserError:  # a defect when its labels are read
            continue
        if not values <= {0, ade.UNLABELLED}:
            return classes, None
    if values != {0, ade.UNLABELLED}:
        return classes, None
    if len(classes) > 2:
        raise UserError(
            f'{masks[0].parent} holds only the values 0 and 255, and pixels of value 255 are '
            f'ignored: write 1 for class {classes[1]!r}, 2 for the next'
        )
    findings.note(f'masks hold only the values 0 and 255: 255 is taken as {classes[1]!r}')
    return classes, Coding({0: 0, 255: 1}, False, root / CLASSES)


def _unnamed_classes(
    root: Path, masks: Sequence[Path], findings: Findings
) -> tuple[tuple[str, ...], Coding | None]:
    """Background and foreground, if the masks have only the values 0 and 1, or 0 and 255.

    Raises:
        UserError: they have others, or none can be read.
    """
    values: set[int] = set()
    errors = []
    for mask in masks:
        try:
            values |= values_of(mask)
        except UserError as error:  # a defect when its labels are read
            errors.append(error)
    if errors and not values:
        raise errors[0]
    for last in (1, 255):
        if values == {0, last}:
            findings.note(
                f'no {CLASSES}: the values 0 and {last} are taken as {" and ".join(BACKGROUND)}'
            )
            return BACKGROUND, Coding({0: 0, last: 1}, False, root / CLASSES)
    raise UserError(
        f'{root / CLASSES} not found: it must name the classes of the masks, one a line, the first '
        f'for value 0; the masks have the values {coco.some(sorted(values), 9)}. If values '
        f'are missing in between, name them in a table with lines "VALUE NAME", see --colors'
    )


def regions(labels: np.ndarray) -> list[Instance]:
    """One for each class in a mask, with the box around its pixels."""
    found = []
    for label in np.unique(labels[labels != ade.UNLABELLED]).tolist():
        inside = labels == label
        found.append(Instance(label, box_around(inside), area=float(inside.sum())))
    return found


def write(dataset: Dataset, directory: Path) -> None:
    """Write images/ and annotations/, with training/ and validation/, and classes.txt."""
    suffix = common_suffix([image.name for image in dataset.images()])
    for split, images in dataset.splits.items():
        name = ADE_SPLITS.get(split, '' if split == 'all' else split)
        for stem, image in images_by_stem(images, 'mask').items():
            assert image.mask
            target = directory / 'images' / name / f'{stem}{suffix}'
            target.parent.mkdir(parents=True, exist_ok=True)
            if common_suffix([image.path.name]) == suffix:
                shutil.copyfile(image.path, target)
            else:
                Image.fromarray(read_image(image.path)).save(target)
            target = directory / 'annotations' / name / f'{stem}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            if is_coded_as_labels(image.mask):
                shutil.copyfile(image.mask.path, target)
            else:
                size = image.width, image.height
                labels = read_labels(image.mask, size, len(dataset.classes))
                Image.fromarray(labels).save(target)
    (directory / CLASSES).write_text('\n'.join(dataset.classes) + '\n', 'utf-8')


def common_suffix(names: Sequence[str]) -> str:
    """The suffix of files of these names; .png, which is lossless, if they differ."""
    suffixes = {SAME_SUFFIX.get(end, end) for end in (Path(name).suffix.lower() for name in names)}
    return suffixes.pop() if len(suffixes) == 1 else '.png'
