"""The figures of the report, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from effvim.evaluation.error_analysis import Mistake
from effvim.evaluation.features import StageFeatures
from effvim.visualization.curves import declutter
from effvim.visualization.rendering import class_colour

RECALL = np.linspace(0, 1, 101)  # the points of COCO's precision array


def mean_precision(precision: np.ndarray) -> np.ndarray:
    """Mean over classes of COCO's array T R K A M, for all areas and most detections: T R."""
    values = precision[:, :, :, 0, -1]
    return np.nanmean(np.where(values > -1, values, np.nan), axis=2)


def class_ap(precision: np.ndarray) -> np.ndarray:
    """The AP of each class from COCO's array T R K A M; NaN for classes without ground truth."""
    values = precision[:, :, :, 0, -1].mean((0, 1))
    return np.where(values > -1, values, np.nan)


def precision_recall(precision: np.ndarray, thresholds: Sequence[float]) -> Figure:
    """Precision over recall, the mean over classes; the area below each curve is its AP.

    Args:
        precision: COCO's array T R K A M.
        thresholds: IoU along its first axis.
    """
    figure = Figure(figsize=(5.4, 3.8), layout='constrained')
    axes = figure.subplots()
    curves = mean_precision(precision)
    for curve, threshold in zip(curves, thresholds):
        if round(threshold, 2) in (0.5, 0.75, 0.9):
            label = f'IoU ≥ {threshold:.2f}: AP {curve.mean():.3f}'
            axes.plot(RECALL, curve, lw=1.8, label=label)
    label = f'IoU {thresholds[0]:.2f} to {thresholds[-1]:.2f}: AP {curves.mean():.3f}'
    axes.plot(RECALL, curves.mean(0), 'k--', lw=1.8, label=label)
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8, loc='upper right')
    declutter(axes)
    return figure


def class_bars(names: Sequence[str], values: np.ndarray, label: str, maximum: float) -> Figure:
    """One bar for each class, best first; classes without a value, NaN, come last.

    Args:
        names: class names.
        values: one for each class.
        label: of the axis.
        maximum: the largest possible value, 1 or 100.
    """
    order = np.argsort(-np.nan_to_num(values, nan=-1), kind='stable')
    figure = Figure(figsize=(6.4, 0.7 + 0.2 * len(order)), layout='constrained')
    axes = figure.subplots()
    places = np.arange(len(order))
    axes.barh(places, np.nan_to_num(values[order]), color='tab:blue', height=0.7)
    for place, value in enumerate(values[order].tolist()):
        text = 'no ground truth' if np.isnan(value) else f'{value:.{3 if maximum <= 1 else 1}f}'
        x = float(np.nan_to_num(value)) + 0.01 * maximum
        axes.text(x, place, text, va='center', fontsize=7)
    axes.set_yticks(places, [names[i] for i in order], fontsize=7)
    axes.set(xlabel=label, xlim=(0, 1.1 * maximum), ylim=(len(order) - 0.4, -0.6))
    declutter(axes)
    axes.grid(axis='y', visible=False)
    return figure


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Fractions of each row, that is of each true class; classes that do not occur are dropped."""
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts, names = counts[np.ix_(kept, kept)], [names[i] for i in kept]
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    is_small = len(kept) <= 20
    side = 1.8 + (0.46 if is_small else 0.13) * len(kept)
    figure = Figure(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.subplots()
    axes.imshow(fractions, cmap='Blues', vmin=0, vmax=1)
    if is_small:
        for i, j in zip(*np.nonzero(counts)):
            axes.text(
                j,
                i,
                f'{100 * fractions[i, j]:.0f}',
                ha='center',
                va='center',
                fontsize=8,
                color='white' if fractions[i, j] > 0.5 else 'black',
            )
    size = 8 if is_small else 5
    axes.set_xticks(range(len(kept)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(kept)), names, fontsize=size)
    axes.set(xlabel='predicted', ylabel='ground truth')
    colours = ScalarMappable(Normalize(0, 100), 'Blues')
    figure.colorbar(colours, ax=axes, shrink=0.6, label='% of the row')
    return figure


def wrong_objects(
    cases: Sequence[tuple[str, np.ndarray, Any, Mistake]], names: Sequence[str]
) -> Figure:
    """Crops around wrong predictions, solid, with the ground truth nearby, dashed.

    Args:
        cases: file name, image, its true instances, mistake.
        names: by label; the last one stands for the absence of an object.
    """
    figure, panels = _grid(len(cases), 4, 2.3)
    for axes, (file, image, ground_truth, mistake) in zip(panels, cases):
        boxes = getattr(ground_truth.bboxes, 'tensor', ground_truth.bboxes).tolist()
        for box, label in zip(boxes, ground_truth.labels.tolist()):
            _add_box(axes, box, label, lw=1.2, ls='--')
        _add_box(axes, mistake.box, mistake.predicted or 0, lw=2)
        axes.imshow(image)
        x1, y1, x2, y2 = mistake.box
        margin = 0.5 * max(x2 - x1, y2 - y1) + 8
        height, width = image.shape[:2]
        axes.set(
            xlim=(max(0, x1 - margin), min(width, x2 + margin)),
            ylim=(min(height, y2 + margin), max(0, y1 - margin)),
        )
        axes.set_title(
            f'{file[-40:]}\n'
            f'predicted {names[mistake.predicted or 0]} {mistake.score:.2f}\n'
            f'ground truth {names[mistake.true or 0]}',
            fontsize=7,
        )
    return figure


def _add_box(axes: Axes, box: Sequence[float], label: int, **style: Any) -> None:
    x1, y1, x2, y2 = box
    rectangle = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=class_colour(label), **style)
    axes.add_patch(rectangle)


def wrong_pixels(cases: Sequence[tuple[str, np.ndarray, np.ndarray, Mistake]]) -> Figure:
    """Images, each next to the confidence of the network where it was wrong.

    cases: file name; image; H W, probability of the wrong class, NaN where it is right; mistake.
    """
    figure, panels = _grid(2 * len(cases), 4, 2.3)
    for left, right, (file, image, probability, mistake) in zip(panels[::2], panels[1::2], cases):
        left.imshow(image)
        left.set_title(file[-40:], fontsize=7)
        right.imshow(image.mean(2), cmap='gray', alpha=0.5)
        right.imshow(probability, cmap='inferno', vmin=0, vmax=1)
        right.set_title(
            f'wrong: {100 * np.isfinite(probability).mean():.1f} % of pixels,\n'
            f'weighted by probability {100 * mistake.score:.1f} %',
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


class NetworkInput(NamedTuple):
    """An image as the network gets it, to draw maps over.

    Attributes:
        image: H W 3, after resizing.
        padded: height and width with the padding at the right and the bottom, which maps cover too.
    """

    image: np.ndarray
    padded: tuple[int, int]

    def show(self, axes: Axes, overlay: np.ndarray | None = None, **style: Any) -> None:
        """Draw the image, and a map of any resolution over it."""
        height, width = self.image.shape[:2]
        axes.imshow(self.image, extent=(0, width, height, 0))
        if overlay is not None:
            extent = (0, self.padded[1], self.padded[0], 0)
            axes.imshow(overlay, extent=extent, interpolation='bilinear', **style)
        axes.set(xlim=(0, width), ylim=(height, 0))


def feature_maps(stages: Sequence[StageFeatures], seen: NetworkInput) -> Figure:
    """A row for each stage: the image, the mean of |channels|, the channels that vary most."""
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


def selections(stages: Sequence[StageFeatures], seen: NetworkInput) -> Figure:
    """A row for each stage: the image, and A ⊙ B̂ over it for the states with the largest sum."""
    figure, panels = _grid(6 * len(stages), 6, 1.6, seen)
    for row, stage in enumerate(stages):
        strongest = np.argsort(-np.abs(stage.selection).sum((1, 2)))
        own = panels[6 * row : 6 * row + 6]
        seen.show(own[0])
        own[0].set_title(f'stage {row + 1}\n{_size(stage.selection)}', fontsize=7)
        for axes, state in zip(own[1:], strongest):
            seen.show(axes, stage.selection[state], cmap='RdBu_r', norm=CenteredNorm(), alpha=0.65)
            axes.set_title(f'state {state} of {len(stage.selection)}', fontsize=7)
    return figure


def _size(maps: np.ndarray) -> str:
    return f'{maps.shape[2]} × {maps.shape[1]}'


def _grid(
    number: int, columns: int, side: float, seen: NetworkInput | None = None
) -> tuple[Figure, Any]:
    """A number of panels without axes, square or of the shape of `seen`."""
    rows = -(-number // columns)
    ratio = seen.image.shape[0] / seen.image.shape[1] if seen else 1
    figure = Figure(figsize=(side * columns, rows * (side * ratio + 0.35)), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.axis('off')
    return figure, panels
