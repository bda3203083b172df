"""Checks of the datasets of a config: everything that is wrong with them, listed at once.

A run checks its data at the start and stops at the first mistake, see `datasets.coco` and
`datasets.ade`. Here the same is checked for every annotation and every image, and what a run would
ignore silently is reported as well.
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
from effvim.checks.images import AdeImage, CocoImage, Result, examine_all
from effvim.config.editing import set_classes
from effvim.config.structure import is_segmentor
from effvim.datasets import ade, coco
from effvim.datasets.boxes import BoxProblem, box_problem

SECTION = 'data'

SPLITS = {'train_dataloader': 'training', 'val_dataloader': 'validation', 'test_dataloader': 'test'}


def examine(cfg: Config, report: Report, workers: int, quick: bool) -> None:
    """Check the datasets of a config; their classes are set in the config.

    Args:
        cfg: changed in place.
        report: where facts, problems and notes are added.
        workers: processes that decode images; 0 for this process.
        quick: check only what a run checks at its start, and every annotation; decode no image.
    """
    examine_split = _examine_ade if is_segmentor(cfg) else _examine_coco
    seen: dict[str, tuple[str, Any]] = {}
    digests: dict[str, dict[bytes, Path]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for loader, split in SPLITS.items():
        dataset = cfg[loader].dataset
        same = next((other for other, known in seen.values() if _is_same(known, dataset)), None)
        if same:
            report.fact(SECTION, split, f'the same as {same}', same_as=same)
            continue
        seen[loader] = split, dataset
        examined = examine_split(split, dataset, report, quick)
        if examined is None:
            continue
        classes[split], images = examined
        results = [] if quick else examine_all(images, workers, split)
        digests[split] = _report_images(split, images, results, report)
        if is_segmentor(cfg) and not quick:
            _report_labels(split, classes[split], images, results, report)
    if len(set(classes.values())) > 1:
        report.problem(
            SECTION,
            'the datasets have different classes, or in different orders: '
            + '; '.join(f'{split}: {", ".join(names[:5])}' for split, names in classes.items()),
        )
    elif classes:
        set_classes(cfg, next(iter(classes.values())))
    for split in [split for split in digests if split != 'training']:
        shared = digests.get('training', {}).keys() & digests[split].keys()
        report.problem(
            f'{SECTION}: {split}',
            'images are in the training split as well',
            [f'{digests[split][d]} is {digests["training"][d]}' for d in sorted(shared)],
        )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two dataset configs read the same files."""
    return all(one.get(key) == other.get(key) for key in ('data_root', 'ann_file', 'data_prefix'))


def _examine_coco(
    split: str, dataset: Any, report: Report, quick: bool
) -> tuple[tuple[str, ...], list[Any]] | None:
    """Check an annotation file; returns classes and images, None if it cannot be read."""
    root, where = Path(dataset.get('data_root') or ''), f'{SECTION}: {split}'
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
        split,
        f'{len(images):,} images, {len(annotations):,} objects of {len(classes)} classes; {path}',
        images=len(images),
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
    report.problem(where, f'images are not in {folder}', sorted(missing))
    names = Counter(image['file_name'] for image in images)
    report.problem(
        where,
        'images are listed more than once',
        [name for name, count in names.items() if count > 1],
    )
    masks = _examine_annotations(where, content, classes, coco.uses_masks(dataset), report)
    return classes, [
        CocoImage(
            folder / image['file_name'],
            (image['width'], image['height']),
            masks.get(image['id'], []),
        )
        for image in images
        if image['file_name'] not in missing
    ]


def _examine_annotations(
    where: str,
    content: Mapping[str, Any],
    classes: tuple[str, ...],
    uses_masks: bool,
    report: Report,
) -> dict[int, list[tuple[int, Any]]]:
    """Check boxes, categories and masks; returns the well-formed masks by image ID."""
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    no_image: list[str] = []
    no_category: list[str] = []
    negative: list[str] = []
    outside: list[str] = []
    malformed: list[str] = []
    tiny: list[str] = []
    counts: Counter[str] = Counter()
    masks: dict[int, list[tuple[int, Any]]] = {}
    for annotation in content['annotations']:
        number, image = annotation['id'], annotation['image_id']
        at = f'annotation {number} (image {image})'
        if image not in sizes:
            no_image.append(at)
            continue
        width, height = sizes[image]
        if annotation['category_id'] not in names:
            no_category.append(f'{at}: {annotation["category_id"]}')
        else:
            counts[names[annotation['category_id']]] += 1
        x, y, w, h = annotation['bbox']
        problem = box_problem((x, y, x + w, y + h), width, height)
        if problem in (BoxProblem.OUTSIDE, BoxProblem.LEAVES):
            outside.append(f'{at}: {annotation["bbox"]} in {width} × {height}')
        elif problem:
            negative.append(f'{at}: {annotation["bbox"]}')
        elif min(w, h) < 1 or annotation['area'] <= 0:
            tiny.append(at)
        if uses_masks:
            segmentation = annotation.get('segmentation')
            mask_problem = coco.segmentation_problem(segmentation, width, height)
            if mask_problem:
                malformed.append(f'{at} {mask_problem}')
            else:
                masks.setdefault(image, []).append((number, segmentation))
    for what, places in (
        ('belong to no image of the file', no_image),
        ('have no category of the file', no_category),
        ('have a box of negative size', negative),
        ('have a box that leaves its image', outside),
        ('have a malformed mask', malformed),
    ):
        report.problem(where, f'annotations {what}', places)
    report.note(where, 'boxes or areas are below 1 pixel; mmdet ignores them', tiny)
    absent = [name for name in classes if not counts[name]]
    report.note(where, 'classes without an instance', absent)
    return masks


def _examine_ade(
    split: str, dataset: Any, report: Report, quick: bool
) -> tuple[tuple[str, ...], list[Any]] | None:
    """Check a split; returns classes and images, None if it cannot be read."""
    try:
        pairs = ade.find_pairs(dataset)
        classes, num_labels = ade.classes_of(dataset)
        if quick:
            ade.check(dataset)
    except UserError as error:
        report.problem(f'{SECTION}: {split}', str(error))
        return None
    reduce_zero_label = ade.setting(dataset, 'reduce_zero_label')
    report.fact(
        SECTION,
        split,
        f'{len(pairs):,} images, {len(classes)} classes; '
        f'{pairs[0][0].parent if pairs else dataset.data_root}',
        images=len(pairs),
        classes=list(classes),
    )
    return classes, [
        AdeImage(image, label_map, num_labels, reduce_zero_label) for image, label_map in pairs
    ]


def _report_images(
    split: str, images: list[Any], results: list[Result], report: Report
) -> dict[bytes, Path]:
    """Report what decoding showed; returns the first image of each content, by hash."""
    where = f'{SECTION}: {split}'
    first: dict[bytes, Path] = {}
    duplicates = []
    for image, result in zip(images, results):
        if result.digest and first.setdefault(result.digest, image.path) != image.path:
            duplicates.append(f'{image.path} is {first[result.digest]}')
    report.problem(
        where, 'images cannot be decoded', [r.unreadable for r in results if r.unreadable]
    )
    report.problem(
        where,
        'images have another size than stated, or a wrong label map',
        [r.wrong for r in results if r.wrong],
    )
    report.note(
        where,
        'masks have no pixel',
        [f'annotation {number}' for r in results for number in r.empty_masks],
    )
    report.note(where, 'images are duplicates', duplicates)
    return first


def _report_labels(
    split: str,
    classes: tuple[str, ...],
    images: list[AdeImage],
    results: list[Result],
    report: Report,
) -> None:
    """Report the number of pixels of each class in the label maps."""
    histograms = [r.pixels for r in results if r.pixels is not None]
    if not histograms or len(classes) != images[0].num_labels:
        return  # with a subset of the classes the labels mean other classes
    pixels = np.sum(histograms, 0)
    reduced = images[0].reduce_zero_label
    unlabelled = int(pixels[0 if reduced else ade.UNLABELLED])
    counts = {name: int(count) for name, count in zip(classes, pixels[int(reduced) :])}
    total = max(sum(counts.values()), 1)
    most = sorted(counts, key=lambda name: -counts[name])[:5]
    report.fact(
        SECTION,
        f'labels of {split}',
        ', '.join(f'{name} {counts[name] / total:.1%}' for name in most)
        + f' …; {unlabelled / (unlabelled + total):.1%} of all pixels have no label',
        pixels=counts,
        unlabelled=unlabelled,
    )
    report.note(
        f'{SECTION}: {split}',
        'classes without an instance',
        [name for name in classes if not counts[name]],
    )
