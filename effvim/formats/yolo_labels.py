"""YOLO's label files: where they are, and what their lines say.

Lines are parsed here and not by supervision, whose import takes longer than most conversions; it
also reads polygons as masks of pixels only, and ignores a sixth number silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbone.errors import UserError
from effvim.datasets import coco
from effvim.files import numbered_lines
from effvim.formats.dataset import AnnotatedImage, Instance, split_named
from effvim.formats.findings import Findings, Kind
from effvim.formats.places import IMAGE_FOLDERS, children
from effvim.images import find_files

LABEL_FOLDERS = ('labels', 'label', 'annotations', 'txt')  # next to images, in lower case

FRACTION = 1.5  # larger coordinates are no fractions of an image, however far they leave it


def label_folders(folder: Path) -> list[Path]:
    """Where the labels of the images in a directory may be, the usual place first.

    That is labels instead of images in the path; otherwise next to the images.
    """
    found = []
    for i in reversed(range(len(folder.parts))):
        part, above = folder.parts[i].lower(), Path(*folder.parts[:i])
        rest = folder.parts[i + 1 :]
        if part in IMAGE_FOLDERS:
            found += [child.joinpath(*rest) for child in children(above, LABEL_FOLDERS)]
        elif split_named(part):
            rest = folder.parts[i:]
            found += [child.joinpath(*rest) for child in children(above, LABEL_FOLDERS)]
    found += children(folder, LABEL_FOLDERS)
    return list(dict.fromkeys([*(path for path in found if path.is_dir()), folder]))


def add_labels(
    images: Sequence[AnnotatedImage], names: Mapping[int, str], source: Path, findings: Findings
) -> list[Path]:
    """Add the instances of its label file to each image; return the images without one.

    Args:
        images: without instances.
        names: by number.
        source: the file that gives the names, for messages.
        findings: receives the lines that are wrong.
    """
    without = []
    places = {folder: label_folders(folder) for folder in {image.path.parent for image in images}}
    for image in images:
        name = f'{image.path.stem}.txt'
        file = next((file for f in places[image.path.parent] if (file := f / name).is_file()), None)
        if file is None:
            without.append(image.path)
            continue
        lines: dict[int, str] = {}
        with findings.collect(Kind.ANNOTATION, image.path):
            lines = numbered_lines(file)
        for number, line in lines.items():
            with findings.collect(Kind.ANNOTATION, image.path):
                try:
                    instance = read_line(line, image)
                except ValueError as error:
                    raise UserError(f'{file}, line {number}: {error}') from error
                if instance.label not in names:
                    raise UserError(
                        f'{file}, line {number}: class {instance.label}, but the names of '
                        f'{source.name} {_range(names)}'
                    )
                image.instances.append(instance._replace(origin=f'{file}, line {number}'))
    return without


def _range(names: Mapping[int, str]) -> str:
    if sorted(names) == list(range(len(names))):
        return f'go from 0 to {len(names) - 1}'
    return f'are for {", ".join(map(str, sorted(names)))}'


def check_all_used(files: Sequence[Path], folders: Sequence[Path], findings: Findings) -> None:
    """Find label files without an image.

    Args:
        files: all images, of kinds that are not read as well.
        folders: directories all of whose images are among them.
        findings: receives them.
    """
    places = {folder: label_folders(folder) for folder in {path.parent for path in files}}
    stems = {(folder, path.stem) for path in files for folder in places[path.parent]}
    found = dict.fromkeys(
        file
        for folder in folders
        for place in label_folders(folder)
        for file in find_files(place, ['.txt'])
    )
    for file in found:
        if (file.parent, file.stem) not in stems and looks_like_labels(file):
            text = f'{file} has no image of the same name: add it, or remove the file'
            findings.add(Kind.NO_IMAGE, text)


def looks_like_labels(file: Path) -> bool:
    """Whether the first line of a text file is one of numbers, as those of label files are."""
    try:
        first = next(iter(numbered_lines(file).values()), '')
        return len([float(word) for word in first.split()]) >= 5
    except (UserError, ValueError):
        return False


def read_line(line: str, image: AnnotatedImage) -> Instance:
    """The instance of a line: class, x and y of the centre, width, height; or class and polygon.

    Raises:
        ValueError: it is neither.
    """
    label, *values = map(float, line.split())
    is_polygon = len(values) > 5 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        raise ValueError(
            f'{1 + len(values)} numbers; a box is a class and 4 numbers, a polygon a class and at '
            f'least 3 pairs x, y'
        )
    if not all(map(math.isfinite, values)):
        raise ValueError('a number is not finite')
    if not label.is_integer():  # np.savetxt writes 1.0
        raise ValueError(f'class {label:g} is not a whole number')
    width, height = image.width, image.height
    if max(values) > max(FRACTION, 2.0 if is_polygon else 0):
        raise ValueError(
            f'{max(values):g} is a number of pixels: coordinates must lie between 0 and 1; divide '
            f'them by the {width} × {height} pixels of {image.path.name}'
        )
    if is_polygon:
        xs, ys = [x * width for x in values[0::2]], [y * height for y in values[1::2]]
        segmentation = [[value for point in zip(xs, ys) for value in point]]
        problem = coco.segmentation_problem(segmentation, width, height)
        if problem:
            raise ValueError(f'the line {problem}')
        return Instance(int(label), (min(xs), min(ys), max(xs), max(ys)), segmentation)
    x, y, w, h = values
    if w < 0 or h < 0:
        raise ValueError('the box has a negative side')
    box = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return Instance(int(label), box)
