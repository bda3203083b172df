"""Label Studio's own JSON and JSON-MIN exports: boxes and polygons.

They name images by the URL of the server; images are found by the last part of it.
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
        UserError: no task has an image that is there.
    """
    root = path.parent
    by_name: dict[str, list[Path]] = {}
    for file in find_images(root, findings):
        by_name.setdefault(file.name, []).append(file)
    pairs: list[tuple[AnnotatedImage, list[tuple[str, Instance]]]] = []
    for task in json.loads(path.read_bytes()):
        where = f'{path}, task {task.get("id")}'
        url = _url(task)
        name = urllib.parse.unquote(url).replace('\\', '/').rpartition('/')[2]
        files = by_name.get(name, [])
        if len(files) != 1:
            why = 'is there several times' if files else f'not found below {root}'
            text = f'{where}: image {url!r:.200} {why}: put the images next to the file'
            findings.add(Kind.NOT_FOUND, text, root / name)
            continue
        for image in open_images(files, root, findings):
            pairs.append((image, list(_objects(where, task, image, findings))))
    classes = tuple(sorted({name for _, objects in pairs for name, _ in objects}))
    for image, objects in pairs:
        image.instances.extend(i._replace(label=classes.index(name)) for name, i in objects)
    return Dataset(path, classes, {'all': [image for image, _ in pairs]})


def _url(task: dict[str, Any]) -> str:
    """What a task says about its image: the text in `data`, or of JSON-MIN in the task itself."""
    data = task.get('data')
    texts = [v for v in (data if isinstance(data, dict) else task).values() if isinstance(v, str)]
    return next((text for text in texts if '/' in text or '.' in text), '')


def _objects(
    where: str, task: dict[str, Any], image: AnnotatedImage, findings: Findings
) -> Iterator[tuple[str, Instance]]:
    """Class name and instance of each region of the first annotation that was not cancelled."""
    annotations = task.get('annotations')
    regions: Any = task.get('label') or []
    if isinstance(annotations, list):
        valid = [a for a in annotations if isinstance(a, dict) and not a.get('was_cancelled')]
        if len(valid) > 1:
            findings.assume('tasks have several annotations: the first is used', where)
        regions = valid[0].get('result') if valid else []
    for region in regions if isinstance(regions, list) else []:
        value = region.get('value', region)
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
