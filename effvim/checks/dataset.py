"""The data sets of a config: all that is wrong with them, where a run would stop at the first.

What a run checks at its start is in effvim/coco.py and effvim/ade.py; here it is applied to every
annotation and every picture, and what a run would pass over in silence is said as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from backbone.errors import UserError
from effvim.checks.findings import Report
from effvim.checks.images import AdeJob, CocoJob, Result, examine_all
from effvim.config.editing import set_classes
from effvim.config.structure import is_segmentor
from effvim.datasets import ade, coco
from effvim.datasets.boxes import BoxProblem, box_problem

SECTION = 'data'

NAMES = {'train_dataloader': 'training', 'val_dataloader': 'validation', 'test_dataloader': 'test'}


def examine(cfg: Config, report: Report, workers: int, quick: bool) -> None:
    """Check the data sets; where they have classes, `cfg` gets them.

    quick: what a run checks at its start, and every annotation; no picture is decoded.
    """
    examine_one = _ade if is_segmentor(cfg) else _coco
    seen: dict[str, tuple[str, Any]] = {}
    digests: dict[str, dict[bytes, Path]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for loader, name in NAMES.items():
        dataset = cfg[loader].dataset
        same = next((other for other, known in seen.values() if _same(known, dataset)), None)
        if same:
            report.fact(SECTION, name, f'the same as {same}', same_as=same)
            continue
        seen[loader] = name, dataset
        found = examine_one(name, dataset, report, quick)
        if found is None:
            continue
        classes[name], jobs = found
        results = [] if quick else examine_all(jobs, workers, name)
        digests[name] = _pictures(name, jobs, results, report)
        if is_segmentor(cfg) and not quick:
            _labels(name, classes[name], jobs, results, report)
    if len(set(classes.values())) > 1:
        report.problem(
            SECTION,
            'the data sets have different classes, or in different orders: '
            + '; '.join(f'{n}: {", ".join(c[:5])}' for n, c in classes.items()),
        )
    elif classes:
        set_classes(cfg, next(iter(classes.values())))
    for name in [name for name in digests if name != 'training']:
        both = digests.get('training', {}).keys() & digests[name].keys()
        report.problem(
            f'{SECTION}: {name}',
            'pictures are among those of training as well',
            [f'{digests[name][d]} is {digests["training"][d]}' for d in sorted(both)],
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two data set configs read the same files."""
    return all(one.get(key) == other.get(key) for key in ('data_root', 'ann_file', 'data_prefix'))


def _coco(
    name: str, dataset: Any, report: Report, quick: bool
) -> tuple[tuple[str, ...], list[Any]] | None:
    """Every annotation of one file; its classes and pictures, None if it is not to be had."""
    root, where = Path(dataset.get('data_root') or ''), f'{SECTION}: {name}'
    path = root / (dataset.get('ann_file') or '')
    try:
        content = coco.read_annotations(path, root)
        classes = coco.classes_of(dataset, path, content)
    except UserError as error:
        report.problem(where, str(error))
        return None
    images, annotations = content['images'], content['annotations']
    report.fact(
        SECTION,
        name,
        f'{len(images):,} pictures, {len(annotations):,} objects of {len(classes)} classes; {path}',
        pictures=len(images),
        objects=len(annotations),
        classes=list(classes),
        file=str(path),
    )
    try:
        coco.check_not_empty(dataset, path, content, classes)
    except UserError as error:
        report.problem(where, str(error))
    folder = root / (dataset.data_prefix.get('img') or '')
    missing = set(coco.missing_images(folder, [image['file_name'] for image in images]))
    report.problem(where, f'pictures are not in {folder}', sorted(missing))
    names = Counter(image['file_name'] for image in images)
    report.problem(
        where, 'pictures are listed more than once', [n for n, count in names.items() if count > 1]
    )
    outlines = _annotations(where, content, classes, coco.uses_masks(dataset), report)
    return classes, [
        CocoJob(
            folder / image['file_name'],
            (image['width'], image['height']),
            outlines.get(image['id'], []),
        )
        for image in images
        if image['file_name'] not in missing
    ]


def _annotations(
    where: str, content: Mapping[str, Any], classes: tuple[str, ...], masks: bool, report: Report
) -> dict[int, list[tuple[int, Any]]]:
    """Boxes, categories and masks; returns the well-formed masks by image."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    found: dict[str, list[str]] = {
        key: []
        for key in (
            'belong to no picture of the file',
            'are of no category of the file',
            'have a box of negative size',
            'have a box that leaves its picture',
            'have a mask that cannot be drawn',
        )
    }
    lost, strange, negative, outside, undrawn = found.values()
    small: list[str] = []
    counts: Counter[str] = Counter()
    outlines: dict[int, list[tuple[int, Any]]] = {}
    for annotation in content['annotations']:
        number, image = annotation['id'], annotation['image_id']
        if image not in sizes:
            lost.append(f'annotation {number} (image {image})')
            continue
        at = f'annotation {number} (image {image})'
        width, height = sizes[image]
        if annotation['category_id'] not in names:
            strange.append(f'{at}: {annotation["category_id"]}')
        else:
            counts[names[annotation['category_id']]] += 1
        x, y, w, h = annotation['bbox']
        wrong = box_problem((x, y, x + w, y + h), width, height)
        if wrong is BoxProblem.NEGATIVE:
            negative.append(f'{at}: {annotation["bbox"]}')
        elif wrong:
            outside.append(f'{at}: {annotation["bbox"]} in {width} × {height}')
        elif min(w, h) < 1 or annotation['area'] <= 0:
            small.append(at)
        if masks:
            outline = annotation.get('segmentation')
            problem = coco.segmentation_problem(outline, width, height)
            if problem:
                undrawn.append(f'{at} {problem}')
            else:
                outlines.setdefault(image, []).append((number, outline))
    for what, texts in found.items():
        report.problem(where, f'annotations {what}', texts)
    report.note(where, 'boxes or areas are below 1 pixel, mmdet leaves them out', small)
    report.note(where, 'classes have no example', [n for n in classes if not counts[n]])
    return outlines


def _ade(
    name: str, dataset: Any, report: Report, quick: bool
) -> tuple[tuple[str, ...], list[Any]] | None:
    """One split; its classes and pictures, None if it is not to be had."""
    try:
        pairs = ade.find_pairs(dataset)
        classes, number = ade.classes_of(dataset)
        if quick:
            ade.check(dataset)
    except UserError as error:
        report.problem(f'{SECTION}: {name}', str(error))
        return None
    reduced = ade.setting(dataset, 'reduce_zero_label')
    report.fact(
        SECTION,
        name,
        f'{len(pairs):,} pictures, {len(classes)} classes; '
        f'{pairs[0][0].parent if pairs else dataset.data_root}',
        pictures=len(pairs),
        classes=list(classes),
    )
    return classes, [AdeJob(image, labels, number, reduced) for image, labels in pairs]


def _pictures(
    name: str, jobs: list[Any], results: list[Result], report: Report
) -> dict[bytes, Path]:
    """What decoding showed; returns a picture for each content."""
    where = f'{SECTION}: {name}'
    first: dict[bytes, Path] = {}
    twice = []
    for job, result in zip(jobs, results):
        if result.digest and first.setdefault(result.digest, job.path) != job.path:
            twice.append(f'{job.path} is {first[result.digest]}')
    report.problem(
        where, 'pictures cannot be decoded', [r.unreadable for r in results if r.unreadable]
    )
    report.problem(
        where,
        'pictures have another size than stated, or a wrong label map',
        [r.wrong for r in results if r.wrong],
    )
    report.note(
        where,
        'masks have no pixel once drawn',
        [f'annotation {number}' for r in results for number in r.empty],
    )
    report.note(where, 'pictures are there twice', twice)
    return first


def _labels(
    name: str, classes: tuple[str, ...], jobs: list[AdeJob], results: list[Result], report: Report
) -> None:
    """Pixels of each class in the label maps."""
    maps = [r.labels for r in results if r.labels is not None]
    if not maps or len(classes) != jobs[0].number:  # of a subset the numbers mean other classes
        return
    pixels = np.sum(maps, 0)
    begin = int(jobs[0].reduced)
    none = int(pixels[0] if jobs[0].reduced else pixels[ade.UNLABELLED])
    counts = {c: int(n) for c, n in zip(classes, pixels[begin:])}
    total = max(sum(counts.values()), 1)
    most = sorted(counts, key=lambda c: -counts[c])[:5]
    report.fact(
        SECTION,
        f'labels of {name}',
        ', '.join(f'{c} {counts[c] / total:.1%}' for c in most)
        + f' …; {none / (none + total):.1%} of '
        f'all pixels have none',
        pixels=counts,
        unlabelled=none,
    )
    report.note(
        f'{SECTION}: {name}', 'classes have no example', [c for c in classes if not counts[c]]
    )
