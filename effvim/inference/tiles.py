"""Large images in overlapping tiles, whose predictions are merged into that of the whole image."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from effvim.config.tiling import Tiling
from effvim.inference.network_output import NetworkOutput

if TYPE_CHECKING:
    from supervision import CompactMask

SAME = 0.5  # IoU, in what two tiles share, from which two objects are the same
BORDER = 0.005  # of a tile's side: how near to its border an object counts as cut


class Window(NamedTuple):
    """A part of an image, in pixels; the lower ends are inside, the upper ones are not."""

    top: int
    left: int
    bottom: int
    right: int

    def cut_from(self, image: np.ndarray) -> np.ndarray:
        """The pixels of the window. Shape: H W … → h w …."""
        return image[self.top : self.bottom, self.left : self.right]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tiles of one image, in rows.

    Attributes:
        tops: where the rows begin.
        lefts: where the columns begin.
        height: of every tile.
        width: of every tile.
        size: height and width of the image.
    """

    tops: Sequence[int]
    lefts: Sequence[int]
    height: int
    width: int
    size: tuple[int, int]

    @classmethod
    def of(cls, tiling: Tiling, height: int, width: int) -> Grid:
        """The tiles of an image of a size."""
        return cls(
            tiling.starts(height),
            tiling.starts(width),
            min(tiling.size, height),
            min(tiling.size, width),
            (height, width),
        )

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Window]:
        for top, left in itertools.product(self.tops, self.lefts):
            yield Window(top, left, top + self.height, left + self.width)


@dataclasses.dataclass
class Part:
    """What was predicted in one tile, in pixels of the tile; see `Prediction`.

    Attributes:
        boxes: N 4.
        scores: N.
        labels: N.
        masks: N h w, or None.
        logits: C h w of a segmentor, if its runtime gives one for each class, else None.
        label_map: h w of a segmentor, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: CompactMask | None = None
    logits: Any = None
    label_map: np.ndarray | None = None

    @classmethod
    def of(cls, output: NetworkOutput) -> Part:
        """The output of a network for one tile."""
        masks = None if output.masks is None else compact(output.masks)
        return cls(**{**vars(output), 'masks': masks})


def compact(masks: np.ndarray) -> CompactMask:
    """Masks, N H W, as run-lengths inside their boxes."""
    import supervision as sv

    return sv.CompactMask.from_dense(masks, sv.mask_to_xyxy(masks), masks.shape[1:])


class Instances(NamedTuple):
    """Objects of a whole image, highest-scoring first; see `Prediction`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: CompactMask | None


def merge_instances(grid: Grid, parts: Sequence[Part], nms_iou: float | None = None) -> Instances:
    """Merge the objects of all tiles of an image.

    Two objects of one class in two tiles are the same if they agree in what the tiles share: the
    IoU of the parts of their boxes there is at least 0.5. Of the same object the highest-scoring
    box is kept that no tile has cut; if all have, e.g. because it is larger than a tile, the box
    and the mask around all of its parts. The detector's own NMS once more ends it: boxes that were
    cut differently in two tiles may overlap more when they are whole.

    Args:
        grid: the tiles.
        parts: the prediction in each of them, in the same order.
        nms_iou: see `nms_threshold`.
    """
    windows = list(grid)
    shift = np.array([[w.left, w.top, w.left, w.top] for w in windows], np.float32)
    boxes = [part.boxes + offset for part, offset in zip(parts, shift)]
    first = np.cumsum([0, *map(len, boxes)])  # number of each tile's first object
    found = np.concatenate(boxes)
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    cut = np.concatenate([_is_cut(b, w, grid) for b, w in zip(boxes, windows)])
    links = np.concatenate(
        [
            first[[a, b]] + _same(boxes[a], parts[a].labels, boxes[b], parts[b].labels, region)
            for a, b in _neighbours(grid)
            for region in [_shared(windows[a], windows[b])]
        ]
        or [np.empty((0, 2), int)]
    )
    # certain objects first: what is uncertain may be the same as several others
    links = links[np.argsort(-scores[links].min(1, initial=1), kind='stable')]
    groups = _Groups(len(found), np.repeat(np.arange(len(windows)), np.diff(first)))
    for i, j in links.tolist():
        groups.join(i, j)

    members: dict[int, list[int]] = {}  # of each object, by the one that stands for it
    for group in groups:
        if len(group) > 1:
            whole = [i for i in group if not cut[i]]
            kept = [max(whole, key=scores.__getitem__)] if whole else group
            found[kept[0]] = [*found[kept, :2].min(0), *found[kept, 2:].max(0)]
            scores[kept[0]] = scores[group].max()
        else:
            kept = group
        members[kept[0]] = kept
    chosen = np.array(list(members), int)
    chosen = chosen[np.argsort(-scores[chosen], kind='stable')]
    if nms_iou is not None:
        chosen = chosen[_nms(found[chosen], scores[chosen], labels[chosen], nms_iou)]
    masks = None
    if all(part.masks is not None for part in parts):
        masks = _merge_masks(grid, parts, first, [members[i] for i in chosen.tolist()])
    return Instances(found[chosen], scores[chosen], labels[chosen], masks)


def nms_threshold(model: Mapping[str, Any]) -> float | None:
    """The IoU above which a detector's NMS drops boxes of the same class.

    None where it has no NMS, or a soft one.

    Args:
        model: the config's `model`.
    """
    last_step = model.get('test_cfg') or {}
    nms = last_step.get('rcnn', last_step).get('nms') or {}
    return nms.get('iou_threshold') if nms.get('type') == 'nms' else None


def _nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float) -> np.ndarray:
    """The numbers of the boxes that NMS within each class keeps, highest-scoring first."""
    import torch
    from torchvision.ops import batched_nms

    return batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), iou).numpy()


class _Groups:
    """Numbers that are joined into groups, at most one number of each tile in a group."""

    def __init__(self, count: int, tiles: np.ndarray) -> None:
        self.group = list(range(count))
        self.members = {i: {tile: i} for i, tile in enumerate(tiles.tolist())}  # by tile

    def join(self, i: int, j: int) -> None:
        """Join the groups of two numbers, unless a tile would have two objects in it."""
        a, b = self.group[i], self.group[j]
        if a == b or not self.members[a].keys().isdisjoint(self.members[b]):
            return
        moved = self.members.pop(b)
        self.members[a].update(moved)
        for k in moved.values():
            self.group[k] = a

    def __iter__(self) -> Iterator[list[int]]:
        for group in self.members.values():
            yield list(group.values())


def _neighbours(grid: Grid) -> Iterator[tuple[int, int]]:
    """Numbers of the pairs of tiles that share pixels."""
    rows, columns = (
        [
            [j for j in range(i, len(starts)) if starts[j] < starts[i] + length]
            for i in range(len(starts))
        ]
        for starts, length in ((grid.tops, grid.height), (grid.lefts, grid.width))
    )
    width = len(grid.lefts)
    for top, left in itertools.product(range(len(grid.tops)), range(width)):
        for below, right in itertools.product(rows[top], columns[left]):
            if (below, right) != (top, left):
                yield top * width + left, below * width + right
            if below > top and right > left:  # the other diagonal
                yield top * width + right, below * width + left


def _shared(a: Window, b: Window) -> np.ndarray:
    """What two tiles share, x1 y1 x2 y2."""
    corners = [max(a.left, b.left), max(a.top, b.top), min(a.right, b.right)]
    return np.array([*corners, min(a.bottom, b.bottom)], np.float32)


def _same(
    a: np.ndarray, a_labels: np.ndarray, b: np.ndarray, b_labels: np.ndarray, region: np.ndarray
) -> np.ndarray:
    """Pairs of objects that are the same in a region: their numbers in `a` and `b`.

    Shape: a N 4, b M 4 → K 2.
    """
    import torch
    from torchvision.ops import box_iou

    a, b = (
        np.concatenate([np.maximum(x[:, :2], region[:2]), np.minimum(x[:, 2:], region[2:])], axis=1)
        for x in (a, b)
    )
    inside_a, inside_b = (np.flatnonzero((x[:, 2:] > x[:, :2]).all(1)) for x in (a, b))
    iou = box_iou(torch.from_numpy(a[inside_a]), torch.from_numpy(b[inside_b])).numpy()
    iou[a_labels[inside_a][:, None] != b_labels[inside_b]] = 0
    i, j = np.nonzero(iou >= SAME)
    return np.stack([inside_a[i], inside_b[j]], 1)


def _is_cut(boxes: np.ndarray, window: Window, grid: Grid) -> np.ndarray:
    """Whether boxes reach a border of their tile that is not one of the image. Shape: N 4 → N."""
    near = np.array([grid.width, grid.height]) * BORDER + 1
    low, high = np.array([window.left, window.top]), np.array([window.right, window.bottom])
    at_low = (boxes[:, :2] <= low + near) & (low > 0)
    at_high = (boxes[:, 2:] >= high - near) & (high < grid.size[::-1])
    return np.any(at_low | at_high, axis=1)


def _merge_masks(
    grid: Grid, parts: Sequence[Part], first: np.ndarray, members: Sequence[Sequence[int]]
) -> CompactMask:
    """The mask of each object as the union of those of its members in their tiles."""
    import supervision as sv

    windows = list(grid)
    masks = []
    for group in members:
        crops = []  # and where they lie in the image
        for i in group:
            tile = int(np.searchsorted(first, i, side='right')) - 1
            own: Any = parts[tile].masks
            x, y = own.offsets[i - first[tile]]
            crops.append((own.crop(i - first[tile]), windows[tile].left + x, windows[tile].top + y))
        left, top = (min(crop[k] for crop in crops) for k in (1, 2))
        union = np.zeros(
            (
                max(y + crop.shape[0] for crop, _, y in crops) - top,
                max(x + crop.shape[1] for crop, x, _ in crops) - left,
            ),
            bool,
        )
        for crop, x, y in crops:
            union[y - top : y - top + crop.shape[0], x - left : x - left + crop.shape[1]] |= crop
        corners = np.array([[0, 0, union.shape[1] - 1, union.shape[0] - 1]])
        mask = sv.CompactMask.from_dense(union[None], corners, union.shape)
        masks.append(mask.with_offset(int(left), int(top), grid.size))
    if masks:
        return sv.CompactMask.merge(masks)
    return sv.CompactMask.from_dense(np.zeros((0, *grid.size), bool), np.zeros((0, 4)), grid.size)


class LabelBlender:
    """Merges the label maps of the tiles of an image, given row by row.

    Logits are averaged with weights that fall towards the border of a tile. Of a tile without
    logits every pixel has the label of the tile whose border is the farthest. Only what later
    tiles still change is kept of the logits: a column and a row of overlaps.

    Args:
        grid: the tiles.
        classes: number of classes.
    """

    def __init__(self, grid: Grid, classes: int) -> None:
        self.grid = grid
        smallest = np.min_scalar_type(max(classes - 1, 1))
        self.labels = np.zeros(grid.size, smallest)
        self.vertical = _weights(grid.tops, grid.height, grid.size[0])
        self.horizontal = _weights(grid.lefts, grid.width, grid.size[1])
        self.number = 0  # of the next tile
        self.right: Any = None  # C h w: sums that the next tiles of the row add to
        self.below: Any = None  # C h W: sums that this row adds to
        self.next: Any = None  # C h W: sums that the next row will add to

    def add(self, part: Part) -> None:
        """Add the next tile."""
        row, column = divmod(self.number, len(self.grid.lefts))
        top, left = self.grid.tops[row], self.grid.lefts[column]
        if part.logits is None:
            assert part.label_map is not None
            ys = np.flatnonzero(self.vertical.argmax(0) == row)
            xs = np.flatnonzero(self.horizontal.argmax(0) == column)
            if len(ys) and len(xs):
                y, x = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
                self.labels[y, x] = part.label_map[
                    y.start - top : y.stop - top, x.start - left : x.stop - left
                ]
        else:
            self._add_logits(part.logits, row, column)
        self.number += 1

    def _add_logits(self, logits: Any, row: int, column: int) -> None:
        import torch

        grid = self.grid
        tops, lefts = [*grid.tops, grid.size[0]], [*grid.lefts, grid.size[1]]
        top, left = tops[row], lefts[column]
        vertical, horizontal = (
            torch.from_numpy(weights[i, start : start + length]).to(logits)
            for weights, i, start, length in (
                (self.vertical, row, top, grid.height),
                (self.horizontal, column, left, grid.width),
            )
        )
        total = logits * vertical[:, None] * horizontal
        if column:
            total[:, :, : self.right.shape[2]] += self.right
        done = lefts[column + 1] - left  # columns to which this row adds nothing more
        self.right = total[:, :, done:].clone()
        total = total[:, :, :done]
        if row:
            height = self.below.shape[1]
            total[:, :height] += self.below[:, :, left : left + done]
        finished = tops[row + 1] - top
        self.labels[top : top + finished, left : left + done] = (
            total[:, :finished].argmax(0).cpu().numpy()
        )
        if row + 1 < len(grid.tops):
            if column == 0:
                self.next = total.new_empty(len(total), grid.height - finished, grid.size[1])
            self.next[:, :, left : left + done] = total[:, finished:]
            if column + 1 == len(grid.lefts):
                self.below = self.next


def _weights(starts: Sequence[int], length: int, total: int) -> np.ndarray:
    """How much each tile counts at each position of an axis; they add up to 1.

    Shape: tiles total.
    """
    weights = np.zeros((len(starts), total), np.float32)
    positions = np.arange(length)
    fall = np.minimum(positions + 1, length - positions)
    for i, start in enumerate(starts):
        weights[i, start : start + length] = fall
    return weights / weights.sum(0)


class Assembly:
    """Collects the predictions of the tiles of one image.

    Args:
        grid: the tiles.
        classes: number of classes.
        segments: whether the network gives label maps.
        nms_iou: see `nms_threshold`.
    """

    def __init__(
        self, grid: Grid, classes: int, segments: bool, nms_iou: float | None = None
    ) -> None:
        self.grid, self.nms_iou = grid, nms_iou
        self.blender = LabelBlender(grid, classes) if segments else None
        self.parts: list[Part] = []
        self.done = 0

    def add(self, part: Part) -> bool:
        """Add the next tile, in the order of the grid; returns whether it was the last one."""
        if self.blender:
            self.blender.add(part)
        else:
            self.parts.append(part)
        self.done += 1
        return self.done == len(self.grid)

    def instances(self) -> Instances:
        """The objects of the whole image."""
        return merge_instances(self.grid, self.parts, self.nms_iou)
