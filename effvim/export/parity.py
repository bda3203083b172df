"""Comparison of an exported file with its PyTorch model on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_iou

from effvim.checkpoints.exported import detector_setting, nms_iou
from effvim.inference.exported_model import EffViMExportedModel

BOX_TOLERANCE = 0.1  # pixels by which a corner may differ
SCORE_TOLERANCE = 1e-3
OVERLAP_TOLERANCE = 0.005  # by which the IoU of two boxes may differ
MIN_MASK_IOU = 0.99  # over the pixels of all masks
MIN_EQUAL_LABELS = 0.999  # fraction of pixels
MAP_TOLERANCE = 1e-3  # relative to the largest value of a map
# Files with weights of half size may differ so many times as much, and in this fraction of
# the boxes by more: rounding decides which of two NMS keeps.
HALF_SIZE, HALF_SIZE_FAULTS = 10, 0.1
MIN_BOXES = 5  # with fewer boxes a comparison shows nothing


class Outcome(NamedTuple):
    """The outcome of a comparison.

    Attributes:
        lines: a summary, line by line.
        faults: differences that are too large; empty if the file is good.
        of_boxes: how many of them are of single boxes.
        boxes: number of boxes that were compared.
    """

    lines: list[str]
    faults: list[str]
    of_boxes: int = 0
    boxes: int = 0

    def is_tolerable(self, fraction: float) -> bool:
        """Whether there are only faults of single boxes, and of at most this fraction of them."""
        return len(self.faults) == self.of_boxes <= fraction * self.boxes


@torch.no_grad()
def predict(model: Any, images: Sequence[Tensor], kind: str) -> list[Any]:
    """Predictions of a model, image by image.

    Args:
        model: a model of mmdet or mmseg, or an `EffViMExportedModel`.
        images: each 3 H W, as OpenCV reads them.
        kind: see `export.metadata`.

    Returns:
        A data sample for each image; for a backbone a tuple of maps.
    """
    if kind == 'Backbone':
        return [backbone_maps(model, image) for image in images]
    if kind == 'EncoderDecoder':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    samples = []
    for image in images:
        size = tuple(image.shape[1:])
        sample = Sample(metainfo=dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0)))
        samples += model.test_step({'inputs': [image], 'data_samples': [sample]})
    return samples


def backbone_maps(model: Any, image: Tensor) -> tuple[Tensor, ...]:
    """The backbone's maps for an image. Shape: 3 H W → each C_i H_i W_i."""
    if isinstance(model, EffViMExportedModel):
        return tuple(model.run(image).values())
    prepared = model.data_preprocessor({'inputs': [image], 'data_samples': None})
    return tuple(x[0] for x in model.backbone(prepared['inputs']))


def compare(
    kind: str,
    expected: Sequence[Any],
    predicted: Sequence[Any],
    settings: Mapping[str, Any],
    slack: float = 1,
) -> Outcome:
    """Compare the predictions of a model and of its exported file.

    Args:
        kind: see `export.metadata`.
        expected: those of the model, see `predict`.
        predicted: those of the file.
        settings: see `checkpoints.exported.settings`.
        slack: how many times the tolerances the predictions may differ.
    """
    if kind == 'Backbone':
        return compare_maps(expected, predicted, slack)
    if kind == 'EncoderDecoder':
        return compare_label_maps(
            [a.pred_sem_seg.data for a in expected],
            [b.pred_sem_seg.data for b in predicted],
            slack,
        )
    return compare_instances(
        [a.pred_instances for a in expected],
        [b.pred_instances for b in predicted],
        detector_setting(settings, 'score_thr', 0.0),
        detector_setting(settings, 'max_per_img'),
        slack,
        nms_iou(settings),
    )


def compare_instances(
    expected: Sequence[InstanceData],
    predicted: Sequence[InstanceData],
    threshold: float,
    number: int | None,
    slack: float = 1,
    overlap: float | None = None,
) -> Outcome:
    """Compare all boxes, scores and labels, and the masks.

    A box may be missing on one side only where rounding decided: at the score threshold, at the
    lowest kept score if the maximum number of boxes is reached, or about the overlap in NMS.

    Args:
        expected: of the model, for each image.
        predicted: of the file, for each image.
        threshold: the score threshold.
        number: the maximum number of boxes in an image; None for no maximum.
        slack: see `compare`.
        overlap: the IoU above which NMS drops the lower-scoring box; None without hard NMS.
    """
    faults, box_differences, score_differences = [], [0.0], [0.0]
    matched = rounded = 0
    intersection = union = 0
    for i, (ours, theirs) in enumerate(zip(expected, predicted), 1):
        floor = threshold
        if max(len(ours), len(theirs)) == number:
            floor = min([*ours.scores.tolist(), *theirs.scores.tolist()])
        pairs, unmatched = match(ours, theirs, slack)
        by_nms: set[tuple[bool, int]] = set()
        if overlap is not None:
            by_nms = decided_by_nms(overlap, ours, theirs, unmatched, slack)
        matched, rounded = matched + len(pairs), rounded + len(by_nms)
        for side, index in unmatched:
            if (side is ours, index) in by_nms:
                continue
            score = float(side.scores[index])
            if not score <= floor + slack * SCORE_TOLERANCE:  # NaN too
                corners = [round(v, 1) for v in side.bboxes[index].tolist()]
                faults.append(
                    f'image {i}: label {int(side.labels[index])} with score {score:.4f} at '
                    f'{corners} is predicted only by {"PyTorch" if side is ours else "the file"}'
                )
        first, second = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
        a, b = ours[first], theirs[second]
        box_differences.append(float((a.bboxes - b.bboxes).abs().max()) if pairs else 0.0)
        score_differences.append(float((a.scores - b.scores).abs().max()) if pairs else 0.0)
        if 'masks' in ours:
            intersection += int((a.masks & b.masks).sum())
            union += int((a.masks | b.masks).sum())
    of_boxes, kept = len(faults), sum(len(ours) for ours in expected)
    lines = [
        f'{kept} boxes kept; corners differ by at most {max(box_differences):.1e} pixels, scores '
        f'by {max(score_differences):.1e}'
    ]
    if rounded:
        lines.append(f'{rounded} boxes are on one side only, where rounding decides in NMS')
    if matched < MIN_BOXES <= kept:
        faults.append(f'only {matched} of the {kept} boxes are equal')
    if kept < MIN_BOXES:
        faults.append(
            f'PyTorch predicts {kept} boxes, fewer than {MIN_BOXES}, which is too few for a '
            f'comparison: use other images, or a model that predicts something'
        )
    if union:
        lines.append(f'masks: IoU {intersection / union:.6f}')
        least = 1 - slack * (1 - MIN_MASK_IOU)
        if intersection / union < least:
            faults.append(f'masks: IoU {intersection / union:.4f}, below {least:g}')
    return Outcome(lines, faults, of_boxes, kept)


def match(
    ours: InstanceData, theirs: InstanceData, slack: float = 1
) -> tuple[list[tuple[int, int]], list[tuple[InstanceData, int]]]:
    """Match equal boxes, preferring the nearest score; returns pairs and unmatched boxes."""
    away = (ours.scores[:, None] - theirs.scores).abs()
    equal = (ours.labels[:, None] == theirs.labels) & (away <= slack * SCORE_TOLERANCE)
    corners = (ours.bboxes[:, None] - theirs.bboxes).abs().amax(-1)
    equal &= corners <= slack * BOX_TOLERANCE
    away = away.where(equal, torch.inf)
    pairs, unmatched = [], []
    for i in range(len(ours)):
        if not len(theirs) or away[i].min() == torch.inf:
            unmatched.append((ours, i))
            continue
        j = int(away[i].argmin())
        pairs.append((i, j))
        away[:, j] = torch.inf  # taken
    taken = {j for _, j in pairs}
    return pairs, unmatched + [(theirs, j) for j in range(len(theirs)) if j not in taken]


def decided_by_nms(
    threshold: float,
    ours: InstanceData,
    theirs: InstanceData,
    unmatched: Sequence[tuple[InstanceData, int]],
    slack: float = 1,
) -> set[tuple[bool, int]]:
    """Unmatched boxes whose absence on the other side is due to rounding in NMS.

    A box counts if a box that both sides have, of its class and at least its score, overlaps it by
    the threshold, within the tolerance; or if one that only the other side has, and that already
    counts, overlaps it by more than the threshold.

    Args:
        threshold: the IoU above which NMS drops the lower-scoring box.
        ours: of the model.
        theirs: of the file.
        unmatched: see `match`.
        slack: see `compare`.

    Returns:
        For each, whether it is of the model, and its index there.
    """
    alone = {(side is ours, index) for side, index in unmatched}
    found: set[tuple[bool, int]] = set()
    for side, index in sorted(unmatched, key=lambda one: -float(one[0].scores[one[1]])):
        other, of_model = (theirs, True) if side is ours else (ours, False)
        ious = box_iou(side.bboxes[index, None], other.bboxes)[0]
        may_drop = other.labels == side.labels[index]
        may_drop &= other.scores >= side.scores[index] - slack * SCORE_TOLERANCE
        for j in may_drop.nonzero()[:, 0].tolist():
            key, iou = (not of_model, j), float(ious[j])
            at_threshold = abs(iou - threshold) <= slack * OVERLAP_TOLERANCE
            if (key not in alone and at_threshold) or (key in found and iou > threshold):
                found.add((of_model, index))
    return found


def compare_label_maps(
    expected: Sequence[Tensor], predicted: Sequence[Tensor], slack: float = 1
) -> Outcome:
    """Compare the labels of all pixels. Shape: each 1 H W."""
    equal = sum(int((a == b).sum()) for a, b in zip(expected, predicted))
    fraction = equal / sum(a.numel() for a in expected)
    least = 1 - slack * (1 - MIN_EQUAL_LABELS)
    faults = (
        [f'{fraction:.4%} of the labels are equal, fewer than {least:.1%}']
        if fraction < least
        else []
    )
    return Outcome([f'{fraction:.4%} of the labels are equal'], faults)


def compare_maps(
    expected: Sequence[Sequence[Tensor]],
    predicted: Sequence[Sequence[Tensor]],
    slack: float = 1,
) -> Outcome:
    """Compare a backbone's maps, by the largest difference relative to the largest value."""
    differences = [
        (a - b).abs().max() / a.abs().max()
        for ours, theirs in zip(expected, predicted)
        for a, b in zip(ours, theirs)
    ]
    worst = float(torch.stack(differences).max())  # NaN if any is
    line = f'maps differ by at most {worst:.1e} of their largest value'
    most = slack * MAP_TOLERANCE
    return Outcome([line], [] if worst <= most else [f'{line}, more than {most:g}'])
