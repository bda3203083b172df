"""What a data set holds, as a table or as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.config import Config
from rich.markup import escape
from rich.table import Table

from effvim.formats import anchors
from effvim.formats.dataset import DataSet, Picture, counts
from effvim.formats.fit import picture_scale

QUANTILES = (5, 50, 95)


def measure(data: DataSet, cfg: Config) -> dict[str, Any]:
    """Numbers by part; anchors are those of `cfg`, on pictures as `train --data` resizes them."""
    return {
        'classes': list(data.classes),
        'parts': {
            part: _part(pictures, data.classes, cfg) for part, pictures in data.parts.items()
        },
    }


def _part(pictures: list[Picture], classes: tuple[str, ...], cfg: Config) -> dict[str, Any]:
    if any(p.mask for p in pictures):
        return _masks(pictures, classes)
    things = [(p, t) for p in pictures for t in p.things if not t.crowd]
    sides = np.array([(t.box[2] - t.box[0], t.box[3] - t.box[1]) for _, t in things])
    sides = sides.reshape(-1, 2)
    sizes = np.array([(p.width, p.height) for p in pictures])
    found: dict[str, Any] = {
        'pictures': len(pictures),
        'without objects': sum(not p.things for p in pictures),
        'boxes': len(things),
        'crowds': sum(t.crowd for p in pictures for t in p.things),
        'outlines': sum(t.outline is not None for _, t in things),
        'per class': counts(pictures, classes),
        'below 1 pixel': int((sides.min(1) < 1).sum()),
        'picture width': _quantiles(sizes[:, 0]),
        'picture height': _quantiles(sizes[:, 1]),
        'box side': _quantiles(np.sqrt(sides.prod(1))),
        'width / height': _quantiles(sides[:, 0] / np.maximum(sides[:, 1], 1e-9)),
    }
    where = anchors.generator(cfg)
    if where and len(things):
        of = np.array([(p.width, p.height) for p, _ in things])
        factor = anchors.resized(of, picture_scale(cfg, sizes))
        found['anchors cover'] = anchors.coverage(sides * factor[:, None], anchors.sides(where[1]))
    return found


def _masks(pictures: list[Picture], classes: tuple[str, ...]) -> dict[str, Any]:
    sizes = np.array([(p.width, p.height) for p in pictures])
    areas = np.zeros(len(classes))
    for picture in pictures:
        for thing in picture.things:
            areas[thing.label] += thing.area or 0
    all_pixels = float(sizes.prod(1).sum())
    return {
        'pictures': len(pictures),
        'pixels that do not count': 1 - areas.sum() / all_pixels,
        'picture width': _quantiles(sizes[:, 0]),
        'picture height': _quantiles(sizes[:, 1]),
        # pictures that have the class, and its share of all pixels that count
        'per class': counts(pictures, classes),
        'share of pixels': dict(zip(classes, (areas / max(areas.sum(), 1)).tolist())),
    }


def _quantiles(values: np.ndarray) -> list[float] | None:
    """At `QUANTILES` %, None of nothing."""
    return [round(float(v), 2) for v in np.percentile(values, QUANTILES)] if len(values) else None


def table(found: dict[str, Any]) -> Table:
    """What `measure` returned, a column for each part."""
    drawn = Table('', *found['parts'])
    parts = list(found['parts'].values())
    for key in dict.fromkeys(
        key for part in parts for key in part if not isinstance(part[key], dict)
    ):
        drawn.add_row(
            f'{key} (5, 50, 95 %)' if isinstance(parts[0].get(key), list) else key,
            *(_text(part.get(key)) for part in parts),
        )
    drawn.add_section()
    for name in found['classes']:
        drawn.add_row(escape(name), *(_of_class(part, name) for part in parts))
    return drawn


def _of_class(part: dict[str, Any], name: str) -> str:
    if not part['per class'][name]:
        return 'none'
    share = part.get('share of pixels')
    return f'{part["per class"][name]:,}' + (f' pictures, {share[name]:.1%}' if share else '')


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(f'{v:.4g}' for v in value)
    return '–' if value is None else f'{value:.1%}' if isinstance(value, float) else f'{value:,}'
