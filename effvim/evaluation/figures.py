"""The plots of the report: from arrays to figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from effvim.evaluation.error_analysis import Mistake
from effvim.evaluation.features import Stage
from effvim.visualization.rendering import class_colour

RECALL = np.linspace(0, 1, 101)  # the points of COCO's precision array


def mean_precision(precision: np.ndarray) -> np.ndarray:
    """Of COCO's array T R K A M, for all sizes and most detections: T R, the mean over classes."""
    values = precision[:, :, :, 0, -1]
    return np.nanmean(np.where(values > -1, values, np.nan), axis=2)


def class_ap(precision: np.ndarray) -> np.ndarray:
    """Of COCO's array T R K A M the AP of each class; NaN where the truth has none of it."""
    values = precision[:, :, :, 0, -1].mean((0, 1))
    return np.where(values > -1, values, np.nan)


def precision_recall(precision: np.ndarray, thresholds: Sequence[float]) -> Figure:
    """Precision over recall, the mean over classes; the area below each curve is its AP.

    thresholds: IoU of the array's first axis.
    """
    figure = Figure(figsize=(5.4, 3.8), layout='constrained')
    axes = figure.subplots()
    curves = mean_precision(precision)
    for i, threshold in enumerate(thresholds):
        if round(threshold, 2) in (0.5, 0.75, 0.9):
            axes.plot(
                RECALL, curves[i], lw=1.8, label=f'IoU ≥ {threshold:.2f}: AP {curves[i].mean():.3f}'
            )
    axes.plot(
        RECALL,
        curves.mean(0),
        'k--',
        lw=1.8,
        label=f'IoU {thresholds[0]:.2f} to {thresholds[-1]:.2f}: AP {curves.mean():.3f}',
    )
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8, loc='upper right')
    _plain(axes)
    return figure


def bars(names: Sequence[str], values: np.ndarray, what: str, top: float) -> Figure:
    """One bar a class, the best first; classes without a value come last, without a bar."""
    order = np.argsort(-np.nan_to_num(values, nan=-1), kind='stable')
    figure = Figure(figsize=(6.4, 0.7 + 0.2 * len(order)), layout='constrained')
    axes = figure.subplots()
    places = np.arange(len(order))
    axes.barh(places, np.nan_to_num(values[order]), color='tab:blue', height=0.7)
    for place, value in enumerate(values[order].tolist()):
        text = (
            'not in the truth'
            if np.isnan(value)
            else f'{value:.3f}'
            if top <= 1
            else (f'{value:.1f}')
        )
        axes.text(float(np.nan_to_num(value)) + 0.01 * top, place, text, va='center', fontsize=7)
    axes.set_yticks(places, [names[i] for i in order], fontsize=7)
    axes.set(xlabel=what, xlim=(0, 1.1 * top), ylim=(len(order) - 0.4, -0.6))
    _plain(axes)
    axes.grid(axis='y', visible=False)
    return figure


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Shares of each true class, its row; classes that occur nowhere are left out."""
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts, names = counts[np.ix_(kept, kept)], [names[i] for i in kept]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 1.8 + (0.46 if len(kept) <= 20 else 0.13) * len(kept)
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    if len(kept) <= 20:
        for i, j in zip(*np.nonzero(counts)):
            axes.text(
                j,
                i,
                f'{100 * shares[i, j]:.0f}',
                ha='center',
                va='center',
                fontsize=8,
                color='white' if shares[i, j] > 0.5 else 'black',
            )
    size = 8 if len(kept) <= 20 else 5
    axes.set_xticks(range(len(kept)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(kept)), names, fontsize=size)
    axes.set(xlabel='found', ylabel='truth')
    figure.colorbar(
        ScalarMappable(Normalize(0, 100), 'Blues'), ax=axes, shrink=0.6, label='% of the row'
    )
    return figure


def wrong_objects(shown: Sequence[tuple[np.ndarray, Any, Mistake]], names: Sequence[str]) -> Figure:
    """Cut-outs around wrong objects: found solid, the truth nearby dashed.

    shown: picture, its true instances, mistake. names: by label, the last for nothing.
    """
    figure, panels = _grid(len(shown), 4, 2.1)
    for axes, (picture, truth, mistake) in zip(panels, shown):
        x1, y1, x2, y2 = mistake.box
        reach = 0.5 * max(x2 - x1, y2 - y1) + 8
        axes.imshow(picture)
        boxes = getattr(truth.bboxes, 'tensor', truth.bboxes).tolist()
        for box, label in [*zip(boxes, truth.labels.tolist()), (mistake.box, mistake.found)]:
            ours = box is mistake.box
            axes.add_patch(
                Rectangle(
                    box[:2],
                    box[2] - box[0],
                    box[3] - box[1],
                    fill=False,
                    lw=2 if ours else 1.2,
                    ls='-' if ours else '--',
                    ec=class_colour(label),
                )
            )
        height, width = picture.shape[:2]
        axes.set(
            xlim=(max(0, x1 - reach), min(width, x2 + reach)),
            ylim=(min(height, y2 + reach), max(0, y1 - reach)),
        )
        axes.set_title(
            f'found {names[mistake.found or 0]} {mistake.sureness:.2f}\n'
            f'truth {names[mistake.truth or 0]}',
            fontsize=7,
        )
    return figure


def wrong_pixels(shown: Sequence[tuple[np.ndarray, np.ndarray, Mistake]]) -> Figure:
    """Pictures beside how sure the network was where it was wrong.

    shown: picture; H W, the probability of the wrong class, NaN where it is right; mistake.
    """
    figure, panels = _grid(2 * len(shown), 4, 2.3)
    for i, (picture, sureness, mistake) in enumerate(shown):
        panels[2 * i].imshow(picture)
        panels[2 * i].set_title('picture', fontsize=7)
        panels[2 * i + 1].imshow(picture.mean(2), cmap='gray', alpha=0.5)
        panels[2 * i + 1].imshow(sureness, cmap='inferno', vmin=0, vmax=1)
        wrong = np.isfinite(sureness).mean()
        panels[2 * i + 1].set_title(
            f'wrong: {100 * wrong:.1f} % of pixels,\nweighed by '
            f'probability {100 * mistake.sureness:.1f} %',
            fontsize=7,
        )
    figure.colorbar(
        ScalarMappable(Normalize(0, 1), 'inferno'),
        ax=panels,
        shrink=0.6,
        label='probability of the wrong class',
        location='bottom',
        aspect=40,
    )
    return figure


class Seen:
    """A picture as the network saw it, for maps to be laid over.

    picture: H W 3, after resizing. padded: height and width with what was padded at the right and
    below, which the maps cover too.
    """

    def __init__(self, picture: np.ndarray, padded: tuple[int, int]) -> None:
        self.picture, self.padded = picture, padded

    def show(self, axes: Axes, over: np.ndarray | None = None, **how: Any) -> None:
        """Draw the picture, and a map of whatever resolution over it."""
        height, width = self.picture.shape[:2]
        axes.imshow(self.picture, extent=(0, width, height, 0))
        if over is not None:
            extent = (0, self.padded[1], self.padded[0], 0)
            axes.imshow(over, extent=extent, interpolation='bilinear', **how)
        axes.set(xlim=(0, width), ylim=(height, 0))


def feature_maps(stages: Sequence[Stage], seen: Seen) -> Figure:
    """A row a stage: the picture, all channels' mean size, the channels that vary most."""
    figure, panels = _grid(6 * len(stages), 6, 1.6, seen)
    for row, stage in enumerate(stages):
        own = panels[6 * row : 6 * row + 6]
        seen.show(own[0])
        own[0].set_title(f'stage {row + 1}\n{_size(stage.map)}', fontsize=7)
        seen.show(own[1], np.abs(stage.map).mean(0), cmap='viridis')
        own[1].set_title(f'mean of\n|{len(stage.map)} channels|', fontsize=7)
        for axes, channel in zip(own[2:], np.argsort(-stage.map.std((1, 2)))):
            seen.show(axes, stage.map[channel], cmap='viridis')
            axes.set_title(f'channel {channel}', fontsize=7)
    return figure


def attention(stages: Sequence[Stage], seen: Seen) -> Figure:
    """A row a stage: the picture, and A ⊙ B̂ over it for the states that take in most."""
    figure, panels = _grid(6 * len(stages), 6, 1.6, seen)
    for row, stage in enumerate(stages):
        strongest = np.argsort(-np.abs(stage.taken).sum((1, 2)))
        own = panels[6 * row : 6 * row + 6]
        seen.show(own[0])
        own[0].set_title(f'stage {row + 1}\n{_size(stage.taken)}', fontsize=7)
        for axes, state in zip(own[1:], strongest):
            seen.show(axes, stage.taken[state], cmap='RdBu_r', norm=CenteredNorm(), alpha=0.65)
            axes.set_title(f'state {state} of {len(stage.taken)}', fontsize=7)
    return figure


def _size(maps: np.ndarray) -> str:
    return f'{maps.shape[2]} × {maps.shape[1]}'


def _grid(number: int, columns: int, side: float, seen: Seen | None = None) -> tuple[Figure, Any]:
    """So many panels without axes; of the shape of `seen`, or square."""
    rows = -(-number // columns)
    ratio = seen.picture.shape[0] / seen.picture.shape[1] if seen else 1
    figure = Figure(figsize=(side * columns, rows * (side * ratio + 0.35)), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.axis('off')
    return figure, panels


def _plain(axes: Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
