"""Whether an exported file finds what its PyTorch model finds, on pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from effvim.inference.exported_model import EffViMExportedModel

BOX = 0.1  # pixels by which a corner may move

SCORE = 1e-3

MASK_IOU = 0.99  # of the pixels of all masks

PIXELS = 0.999  # share of labels that must agree

MAP = 1e-3  # of the largest value in a map

FEWEST = 5  # boxes, below which a comparison says nothing


class Comparison(NamedTuple):
    """Lines for a person, and what differs too much; nothing if the file is good."""

    lines: list[str]
    faults: list[str]


@torch.no_grad()
def find(model: Any, images: Sequence[Tensor], kind: str) -> list[Any]:
    """What a model of mmdet, mmseg or an `EffViMExportedModel` finds, picture by picture.

    `images`: each 3 H W, as OpenCV reads them. Data samples; of a backbone tuples of maps.
    """
    if kind == 'Backbone':
        return [maps_of(model, image) for image in images]
    if kind == 'EncoderDecoder':
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmdet.structures import DetDataSample as Sample
    found = []
    for image in images:
        size = tuple(image.shape[1:])
        sample = Sample(metainfo=dict(ori_shape=size, img_shape=size, scale_factor=(1.0, 1.0)))
        found += model.test_step({'inputs': [image], 'data_samples': [sample]})
    return found


def maps_of(model: Any, image: Tensor) -> tuple[Tensor, ...]:
    """The backbone's maps, each C_i H_i W_i."""
    if isinstance(model, EffViMExportedModel):
        return tuple(model.run(image).values())
    prepared = model.data_preprocessor({'inputs': [image], 'data_samples': None})
    return tuple(x[0] for x in model.backbone(prepared['inputs']))


def compare(
    kind: str, expected: Sequence[Any], found: Sequence[Any], settings: Mapping[str, Any]
) -> Comparison:
    """What the model and its file have found, see `find`; `settings` as of `exported`."""
    if kind == 'Backbone':
        return maps(expected, found)
    if kind == 'EncoderDecoder':
        return label_maps(
            [a.pred_sem_seg.data for a in expected], [b.pred_sem_seg.data for b in found]
        )
    last = 'model.test_cfg.rcnn' if kind == 'MaskRCNN' else 'model.test_cfg'
    return instances(
        [a.pred_instances for a in expected],
        [b.pred_instances for b in found],
        settings[f'{last}.score_thr'],
        settings[f'{last}.max_per_img'],
    )


def instances(
    expected: Sequence[InstanceData], found: Sequence[InstanceData], threshold: float, number: int
) -> Comparison:
    """Every kept box, score and label, and the masks.

    A box may be found by one side alone only where rounding decided: at the score threshold, or at
    the lowest score that is kept where all `number` places are taken.
    """
    faults, moved, scores = [], [0.0], [0.0]
    both = either = 0
    for i, (ours, theirs) in enumerate(zip(expected, found), 1):
        floor = threshold
        if max(len(ours), len(theirs)) == number:
            floor = min([*ours.scores.tolist(), *theirs.scores.tolist()])
        pairs, lone = matched(ours, theirs)
        for side, index in lone:
            score = float(side.scores[index])
            if score > floor + SCORE:
                corners = [round(v, 1) for v in side.bboxes[index].tolist()]
                faults.append(
                    f'picture {i}: label {int(side.labels[index])} with score '
                    f'{score:.4f} at {corners} is found by '
                    f'{"PyTorch" if side is ours else "the file"} alone'
                )
        first, second = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
        a, b = ours[first], theirs[second]
        moved.append(float((a.bboxes - b.bboxes).abs().max()) if pairs else 0.0)
        scores.append(float((a.scores - b.scores).abs().max()) if pairs else 0.0)
        if 'masks' in ours:
            both += int((a.masks & b.masks).sum())
            either += int((a.masks | b.masks).sum())
    kept = sum(len(ours) for ours in expected)
    lines = [
        f'{kept} boxes kept; corners differ by at most {max(moved):.1e} pixels, scores by '
        f'{max(scores):.1e}'
    ]
    if kept < FEWEST:
        faults.append(
            f'PyTorch keeps {kept} boxes, fewer than {FEWEST}: that shows nothing; take '
            f'other pictures, or a model that finds something'
        )
    if either:
        lines.append(f'masks: IoU {both / either:.6f}')
        if both / either < MASK_IOU:
            faults.append(f'masks: IoU {both / either:.4f}, below {MASK_IOU}')
    return Comparison(lines, faults)


def matched(
    ours: InstanceData, theirs: InstanceData
) -> tuple[list[tuple[int, int]], list[tuple[InstanceData, int]]]:
    """Pairs of equal boxes, each with the nearest in score, and those that have no equal."""
    left = list(range(len(theirs)))
    pairs, lone = [], []
    for i in range(len(ours)):
        near = [
            j
            for j in left
            if ours.labels[i] == theirs.labels[j]
            and abs(ours.scores[i] - theirs.scores[j]) <= SCORE
            and (ours.bboxes[i] - theirs.bboxes[j]).abs().max() <= BOX
        ]
        if near:
            j = min(near, key=lambda j: float(abs(ours.scores[i] - theirs.scores[j])))
            pairs.append((i, j))
            left.remove(j)
        else:
            lone.append((ours, i))
    return pairs, lone + [(theirs, j) for j in left]


def label_maps(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Comparison:
    """The share of pixels that have the same label."""
    agree = sum(int((a == b).sum()) for a, b in zip(expected, found))
    share = agree / sum(a.numel() for a in expected)
    faults = [f'{share:.4%} of the labels agree, fewer than {PIXELS:.1%}'] if share < PIXELS else []
    return Comparison([f'{share:.4%} of the labels agree'], faults)


def maps(expected: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> Comparison:
    """A backbone's maps; the largest difference in shares of the largest value."""
    worst = max(
        float((a - b).abs().max() / a.abs().max())
        for ours, theirs in zip(expected, found)
        for a, b in zip(ours, theirs)
    )
    line = f'maps differ by at most {worst:.1e} of their largest value'
    return Comparison([line], [] if worst <= MAP else [f'{line}, more than {MAP}'])
