"""Pictures divided into those to train on and those to validate on."""

from __future__ import annotations

import random
from collections import Counter

from backbone.errors import UserError
from effvim.formats.dataset import DataSet, Picture


def split(data: DataSet, share: float, seed: int) -> DataSet:
    """`data` in two parts, train and val; the same seed gives the same parts.

    Rare classes choose first: of each class, in the order of its number of pictures, val gets its
    share, at least one and never all where it has two or more, until val is full.

    Raises:
        UserError: a part would be empty.
    """
    pictures = sorted(data.pictures(), key=lambda picture: picture.name)
    wanted = round(share * len(pictures)) if 0 < share < 1 else 0
    if not 0 < wanted < len(pictures):
        raise UserError(
            f'--val {share:g} of {len(pictures)} pictures leaves a part empty: give a '
            f'share between 0 and 1 that is at least one picture'
        )
    random.Random(seed).shuffle(pictures)
    within = [{thing.label for thing in picture.things} for picture in pictures]
    having = Counter(label for labels in within for label in labels)
    chosen: set[int] = set()
    kept = Counter(having)  # pictures of a class that are left to train on
    for label in sorted(having, key=lambda label: (having[label], label)):
        aim = max(1, round(share * having[label])) if having[label] > 1 else 0
        have = sum(label in within[i] for i in chosen)
        for i, labels in enumerate(within):
            if have >= aim or len(chosen) >= wanted:
                break
            if label in labels and i not in chosen and all(kept[other] > 1 for other in labels):
                chosen.add(i)
                kept.subtract(labels)
                have += 1
    for i, labels in enumerate(within):  # those without objects, and what is still missing
        if len(chosen) >= wanted:
            break
        if i not in chosen and all(kept[other] > 1 for other in labels):
            chosen.add(i)
            kept.subtract(labels)
    if not 0 < len(chosen) < len(pictures):
        raise UserError(
            'every picture is the only one of some class, none can be spared to '
            'validate on: add pictures'
        )

    def part(inside: bool) -> list[Picture]:
        found = [p for i, p in enumerate(pictures) if (i in chosen) == inside]
        return sorted(found, key=lambda picture: picture.name)

    return data._replace(parts={'train': part(False), 'val': part(True)})
