"""Label Studio's own JSON and JSON-MIN exports: boxes and polygons.

They name images by the URL of the server; images are found by the name of the file in it.
"""

from __future__ import annotations

import json
import math
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from effvim.formats.dataset import AnnotatedImage, Dataset, Instance
from effvim.formats.findings import Findings, Kind
from effvim.formats.opening import find_images, open_images
from effvim.images import TRAINED_SUFFIXES, UNREAD_SUFFIXES

RECTANGLE, POLYGON = 'rectanglelabels', 'polygonlabels'

READ = (RECTANGLE, POLYGON)


def is_export(path: Path) -> bool:
    """Whether a JSON file is a list of tasks."""
    with path.open('rb') as file:
        if file.read(64).removeprefix(b'\xef\xbb\xbf').lstrip()[:1] != b'[':
            return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return bool(content) and all(
        isinstance(task, dict) and ('annotations' in task or 'label' in task or 'id' in task)
        for task in content
    )


def read(path: Path, findings: Findings) -> Dataset:
    """Read an export whose images lie below its directory.

    Args:
        path: the JSON file.
        findings: receives what is wrong with images and annotations.

    Raises:
        UserError: no task has an annotation.
    """
    root = path.parent
    by_name: dict[str, list[Path]] = {}
    for file in find_images(root, findings):
        by_name.setdefault(file.name, []).append(file)
    pairs: list[tuple[AnnotatedImage, list[tuple[str, Instance]]]] = []
    for task in json.loads(path.read_bytes()):
        where = f'{path}, task {task.get("id")}'
        regions = _regions(where, task, findings)
        if regions is None:
            findings.assume('tasks have no annotation and are ignored', where)
            continue
        url = _url(task)
        names = _names(url)
        name = next((name for name in names if name in by_name), names[0])
        files = by_name.get(name, [])
        if len(files) != 1:
            problem = f'not found below {root}: put the images next to the file'
            if files:
                problem = f'is there several times, {files[0]}, {files[1]}: keep one of them'
            findings.add(Kind.NOT_FOUND, f'{where}: image {url!r:.200} {problem}', root / name)
            continue
        for image in open_images(files, root, findings):
            pairs.append((image, list(_objects(where, regions, image, findings))))
    if not pairs and not findings.defects:
        raise UserError(
            f'{path}: no task has an annotation, and predictions are not read: annotate images in '
            f'Label Studio and export them again'
        )
    classes = tuple(sorted({name for _, objects in pairs for name, _ in objects}))
    for image, objects in pairs:
        image.instances.extend(i._replace(label=classes.index(name)) for name, i in objects)
    return Dataset(path, classes, {'all': [image for image, _ in pairs]})


def _url(task: dict[str, Any]) -> str:
    """What a task says about its image: a text in `data`, or of JSON-MIN in the task itself."""
    data = task.get('data')
    texts = [v for v in (data if isinstance(data, dict) else task).values() if isinstance(v, str)]
    ends = (*TRAINED_SUFFIXES, *UNREAD_SUFFIXES)
    images = [text for text in texts if any(n.lower().endswith(ends) for n in _names(text))]
    return next((text for text in [*images, *texts] if '/' in text or '.' in text), '')


def _names(url: str) -> list[str]:
    """The names of files that a URL, or a path, may stand for, the likeliest first."""
    path, _, query = url.partition('?')
    local = urllib.parse.parse_qs(query).get('d', [])  # /data/local-files/?d=PATH
    places = [*local, urllib.parse.unquote(path), urllib.parse.unquote(url)]
    return [place.replace('\\', '/').rpartition('/')[2] for place in places]


def _regions(where: str, task: dict[str, Any], findings: Findings) -> list[Any] | None:
    """The regions of the first annotation that was not cancelled; None if there is none."""
    if not isinstance(task.get('data'), dict) and 'annotations' not in task:
        return _regions_of_minimal(task)
    annotations = task.get('annotations')
    annotations = annotations if isinstance(annotations, list) else []
    valid = [a for a in annotations if isinstance(a, dict) and not a.get('was_cancelled')]
    if len(valid) > 1:
        findings.assume('tasks have several annotations: the first is used', where)
    if not valid:
        return None
    regions = valid[0].get('result')
    return regions if isinstance(regions, list) else []


def _regions_of_minimal(task: dict[str, Any]) -> list[Any] | None:
    """The regions in a task of JSON-MIN, which are lists under the names of the controls."""
    if task.get('annotation_id', 0) is None:
        return None
    lists = [value for value in task.values() if isinstance(value, list)]
    dicts = [item for items in lists for item in items if isinstance(item, dict)]
    return [item for item in dicts if any(str(key).endswith('labels') for key in item)]


def _objects(
    where: str, regions: list[Any], image: AnnotatedImage, findings: Findings
) -> Iterator[tuple[str, Instance]]:
    """Class name and instance of each region."""
    for region in regions:
        value = region.get('value', region) if isinstance(region, dict) else None
        value = value if isinstance(value, dict) else {}
        kind = next((key for key in READ if value.get(key)), None)
        if kind is None:
            findings.assume('regions are neither boxes nor polygons and are ignored', where)
            continue
        with findings.collect(Kind.ANNOTATION, image.path):
            try:
                yield str(value[kind][0]).strip(), _instance(value, kind, image, where)
            except (LookupError, TypeError, ValueError) as error:
                raise UserError(f'{where}: a region cannot be read: {error!r}') from error


def _instance(value: dict[str, Any], kind: str, image: AnnotatedImage, where: str) -> Instance:
    """A box, of which a turned one is the box around it, or a polygon; values are in percent."""
    width, height = image.width / 100, image.height / 100
    if kind == RECTANGLE:
        x, y = float(value['x']) * width, float(value['y']) * height
        w, h = float(value['width']) * width, float(value['height']) * height
        angle = math.radians(float(value.get('rotation') or 0))
        sides = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
        points = [
            (
                x + a * math.cos(angle) - b * math.sin(angle),
                y + a * math.sin(angle) + b * math.cos(angle),
            )
            for a, b in sides
        ]
        segmentation = None
    else:
        points = [(float(x) * width, float(y) * height) for x, y in value['points']]
        if len(points) < 3:
            raise ValueError('a polygon of less than three points')
        segmentation = [[v for point in points for v in point]]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Instance(0, (min(xs), min(ys), max(xs), max(ys)), segmentation, origin=where)
