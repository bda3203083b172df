"""Split a dataset into training and validation sets, with every class in both."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from backbone.errors import UserError
from effvim.formats.dataset import AnnotatedImage, Dataset

MAX_ROUNDS = 200  # exchanges between the sets

MAX_CANDIDATES = 100  # groups of a set that an exchange considers


def split(
    dataset: Dataset,
    fraction: float,
    seed: int,
    group_by: str | None = None,
    copies: Sequence[set[Path]] = (),
) -> Dataset:
    """Split a dataset into train and val; the same seed gives the same split.

    Of the images of each class, val gets a fraction as near to the wanted one as the images allow,
    at least one image of each class that has two; frequent and rare classes alike.

    Args:
        dataset: its own splits are merged.
        fraction: of the images that go to val.
        seed: random seed.
        group_by: regular expression that is searched in the names of images in their own split;
            those in which its first group finds the same text stay together (default: each image
            by itself).
        copies: files of the same content, see `find_copies`: they stay together.

    Raises:
        UserError: a split would be empty, or the expression is wrong.
    """
    images = sorted(dataset.images(), key=lambda image: image.name)
    num_val = round(fraction * len(images)) if 0 < fraction < 1 else 0
    if not 0 < num_val < len(images):
        raise UserError(
            f'--val {fraction:g} of {len(images)} images leaves a split empty: pass a '
            f'fraction between 0 and 1 that is at least one image'
        )
    # without the names of splits, which tell merged images apart but group nothing
    own = {image.path: image.name for images in dataset.splits.values() for image in images}
    groups = _join(_groups(images, own, group_by), copies)
    if len(groups) < 2:
        raise UserError('all images are copies of one another, or of one group: add other images')
    random.Random(seed).shuffle(groups)
    chosen = _choose(_counts(groups, len(dataset.classes)), num_val)
    if not 0 < chosen.sum() < len(groups):
        raise UserError(
            'every image is the only one of some class, so none can be spared for validation: '
            'add images'
        )

    def subset(in_val: bool) -> list[AnnotatedImage]:
        members = [image for group, i in zip(groups, chosen) if i == in_val for image in group]
        return sorted(members, key=lambda image: image.name)

    return dataset._replace(splits={'train': subset(False), 'val': subset(True)})


def _groups(
    images: list[AnnotatedImage], names: Mapping[Path, str], group_by: str | None
) -> list[list[AnnotatedImage]]:
    """The images that stay together, by their names.

    Raises:
        UserError: the expression is wrong, or does not find a group in every image, or only one.
    """
    if group_by is None:
        return [[image] for image in images]
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise UserError(f'--group-by {group_by}: no regular expression: {error}') from error
    groups: dict[str, list[AnnotatedImage]] = {}
    without = []
    for image in images:
        match = expression.search(names[image.path])
        name = match and (match[1] if expression.groups else match[0])
        if name is None:
            without.append(names[image.path])
        else:
            groups.setdefault(name, []).append(image)
    if without:
        raise UserError(
            f'--group-by {group_by} finds nothing in {len(without)} of {len(images)} names of '
            f'images, e.g. {without[0]}: change the expression'
        )
    if len(groups) < 2:
        raise UserError(
            f'--group-by {group_by} puts all images into one group, {next(iter(groups))!r}: change '
            f'the expression; names look like {names[images[0].path]}'
        )
    return list(groups.values())


def find_copies(images: Iterable[AnnotatedImage]) -> list[set[Path]]:
    """The files with the same content as others, those of one content together, in one order."""
    by_size: dict[int, set[Path]] = {}
    for image in images:
        by_size.setdefault(image.path.stat().st_size, set()).add(image.path)
    by_content: dict[bytes, set[Path]] = {}
    for paths in by_size.values():
        for path in sorted(paths) if len(paths) > 1 else ():
            content = hashlib.sha256(path.read_bytes()).digest()
            by_content.setdefault(content, set()).add(path)
    return [paths for paths in by_content.values() if len(paths) > 1]


def _join(
    groups: list[list[AnnotatedImage]], copies: Iterable[set[Path]]
) -> list[list[AnnotatedImage]]:
    """The groups, those joined that hold copies of one file."""
    for paths in copies:
        apart = [group for group in groups if any(image.path in paths for image in group)]
        together = [image for group in apart for image in group]
        groups = [group for group in groups if not any(group is one for one in apart)]
        groups.append(together)
    return groups


def _counts(groups: list[list[AnnotatedImage]], num_classes: int) -> np.ndarray:
    """What is divided: of each group the number of images, and of those without instances.

    Then for each class the number of images that have it, and that of its instances: groups,
    2 + 2 classes.
    """
    counts = np.zeros((len(groups), 2 + 2 * num_classes))
    for row, group in zip(counts, groups):
        row[0] = len(group)
        for image in group:
            labels = [instance.label for instance in image.instances]
            row[[2 + label for label in set(labels)] or [1]] += 1
            row[2 + num_classes :] += np.bincount(labels, minlength=num_classes)
    return counts


def _choose(counts: np.ndarray, num_val: int) -> np.ndarray:
    """The groups of val, bool: the deviations from the wanted numbers of images are small.

    Wanted is the same fraction of every column, but at least a group and not all of a class that
    has two. The deviation is measured as in a chi-squared test. Groups with rare classes choose
    first; then groups are exchanged between the sets, or moved, as long as that helps.
    """
    totals, num_groups = counts.sum(0), (counts > 0).sum(0)
    smallest = np.where(counts > 0, counts, np.inf).min(0)
    wanted = num_val / totals[0] * totals
    several = num_groups >= 2
    wanted = np.where(several, np.clip(wanted, smallest, totals - smallest), 0)
    wanted[0] = num_val
    weights = 1 / np.maximum(wanted, 1)
    weights[~several] = 1e9  # the only group of a class is needed in train
    # their number can be met, and is wanted most, unless images stay together in groups
    weights[0] = (1e3 if (counts[:, 0] == 1).all() else 3) / num_val

    def cost(sums: np.ndarray, target: np.ndarray) -> np.ndarray:
        return (weights * (sums - target) ** 2).sum(-1)

    chosen = np.zeros(len(counts), bool)
    rarity = np.where(counts[:, 1:] > 0, totals[1:], np.inf).min(1)
    sums = np.zeros(counts.shape[1])
    # so that at any time each column of those that have chosen has its fraction in val
    due, fractions = np.zeros(counts.shape[1]), wanted / np.maximum(totals, 1)
    for i in np.argsort(rarity, kind='stable'):
        due = due + fractions * counts[i]
        chosen[i] = cost(sums + counts[i], due) < cost(sums, due)
        sums = sums + chosen[i] * counts[i]
    for i in range(len(counts)):  # what is still missing, and what is too much
        changed = sums + (-1 if chosen[i] else 1) * counts[i]
        if cost(changed, wanted) < cost(sums, wanted):
            chosen[i], sums = not chosen[i], changed
    for turn in range(MAX_ROUNDS):
        # of many, others in each round
        inside, outside = (
            np.roll(np.flatnonzero(of), -turn * MAX_CANDIDATES)[:MAX_CANDIDATES]
            for of in (chosen, ~chosen)
        )
        best, change = float(cost(sums, wanted)) - 1e-9, None
        for i in (*inside, None):
            without = sums if i is None else sums - counts[i]
            costs = cost(without + np.vstack([counts[outside], 0 * sums]), wanted)
            j = int(costs.argmin())
            if costs[j] < best:
                best, change = float(costs[j]), (i, outside[j] if j < len(outside) else None)
        if change is None:
            break
        for index, sign in zip(change, (-1, 1)):
            if index is not None:
                chosen[index] = sign > 0
                sums = sums + sign * counts[index]
    return chosen
