"""Detectors and segmentors as one function of a picture, written so that exporters take them.

mmdet's own post-processing does not survive an export, see effvim/export_ops.py. This is the same
arithmetic on tensors of fixed shapes; the network is the trained one.

B pictures, K = max_per_img boxes of each, C classes. Boxes are corners in pixels of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.errors import UserError
from effvim.export.operators import pool, suppress


def top(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` highest of each row and where they are; a row that is too short goes on with 0.

    Shape: B N → B number, B number.
    """
    last = scores.shape[1] - 1
    values, places = F.pad(scores, (0, number)).topk(number)
    return values, places.clamp(max=last)


def rows(x: Tensor, places: Tensor) -> Tensor:
    """Chosen rows of each picture. Shape: x B N D, places B K → B K D."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))


def priors_of(generator: Any, level: int, height: int, width: int) -> Tensor:
    """All A anchors, or the point, at all places of a map of that size, in mmdet's order.

    Shape: H·W·A 4, or H·W 2.
    """
    stride_x, stride_y = generator.strides[level]
    if hasattr(generator, 'base_anchors'):
        base, offset = generator.base_anchors[level], 0.0  # A 4
    else:  # points
        base, offset = torch.zeros(1, 2), generator.offset
    y = ((torch.arange(height) + offset) * stride_y).to(base).view(-1, 1, 1).expand(-1, width, 1)
    x = ((torch.arange(width) + offset) * stride_x).to(base).view(1, -1, 1).expand(height, -1, 1)
    shifts = torch.cat([x, y] * (base.shape[1] // 2), -1)  # H W 2 or 4
    return (shifts[:, :, None] + base).flatten(0, 2)


def decode(coder: Any, priors: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes within a picture of that height and width.

    Shape: priors … 4, or points … 2, and deltas … 4 → … 4.
    """
    if priors.shape[-1] == 2:
        corners = torch.cat([priors - deltas[..., :2], priors + deltas[..., 2:]], -1)
    else:
        deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
        limit = -math.log(16 / 1000)  # mmdet's, of how much a box may grow or shrink
        extent = priors[..., 2:] - priors[..., :2]
        centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + extent * deltas[..., :2]
        half = extent * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
        corners = torch.cat([centre - half, centre + half], -1)
    x, y = corners[..., 0::2].clamp(0, size[1]), corners[..., 1::2].clamp(0, size[0])
    return torch.stack([x, y], -1).flatten(-2)


def candidates(
    head: Any, maps: tuple[Sequence[Tensor], Sequence[Tensor]], size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each level the `nms_pre` highest pairs of prior and class, as boxes, scores and labels.

    Boxes too small to count have score 0.

    Shape: logits, each level B A·C H W, and deltas, B A·4 H W → B N 4, B N, B N.
    """
    classes, settings = head.cls_out_channels, head.test_cfg
    found = []
    for level, (logits, deltas) in enumerate(zip(*maps)):
        priors = priors_of(head.prior_generator, level, *logits.shape[2:])
        scores = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()
        scores, places = top(scores, settings.nms_pre)
        chosen = places // classes
        deltas = rows(deltas.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)), chosen)
        boxes = decode(head.bbox_coder, priors[chosen], deltas, size)
        extent = boxes[..., 2:] - boxes[..., :2]
        found.append((boxes, scores * (extent > settings.min_bbox_size).all(-1), places % classes))
    boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*found))
    return boxes, scores, labels


def best(
    boxes: Tensor, scores: Tensor, groups: Tensor, settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """What NMS within each group keeps, highest score first; then scores of 0.

    Shape: boxes B N 4, scores and groups B N → B K 4, B K, B K.
    """
    number, threshold = settings.max_per_img, settings.get('score_thr', 0.0)
    found = scores > threshold
    # moved apart by as much as mmdet does: its rounding decides about boxes at the threshold
    apart = torch.where(found[..., None], boxes, 0).amax((1, 2)) + 1
    moved = boxes + (groups.to(boxes) * apart[:, None])[..., None]
    kept = suppress(moved, scores, settings.nms.iou_threshold, threshold, number)
    scores, places = top(kept, number)
    return rows(boxes, places), scores, groups.gather(1, places)


def features(extractor: Any, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """What a RoI extractor of mmdet gives for all boxes. Shape: boxes B K 4 → B·K C h w."""
    pictures = torch.arange(boxes.shape[0]).to(boxes)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat([pictures, boxes], -1).flatten(0, 1)  # B·K 5
    strides = list(extractor.featmap_strides)
    layer = extractor.roi_layers[0]
    return pool(
        list(maps[: len(strides)]),
        rois,
        extractor.map_roi_levels(rois, len(strides)),
        strides,
        layer.output_size[0],
        layer.sampling_ratio,
    )


class Exportable(nn.Module):
    """A trained model behind its preparation of pictures. `names`: those of its outputs."""

    names: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.prepare = prepare

    @staticmethod
    def results(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and their number; after the last box 0, 0 and −1."""
        found = scores > 0
        return boxes * found[..., None], scores, torch.where(found, labels, -1), found.sum(1)


class OneStage(Exportable):
    """RetinaNet and RTMDet. Shape: B 3 H W → boxes B K 4, scores B K, labels B K, count B."""

    names = ('boxes', 'scores', 'labels', 'count')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        maps = head(self.model.extract_feat(self.prepare(images)))
        found = candidates(head, maps, images.shape[2:])
        return self.results(*best(*found, head.test_cfg))


class MaskRCNN(Exportable):
    """Shape: B 3 H W → as RetinaNet, and masks B K 28 28: probabilities in each box, 0 in none."""

    names = (*OneStage.names, 'masks')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rpn, roi_head, size = self.model.rpn_head, self.model.roi_head, images.shape[2:]
        maps = self.model.extract_feat(self.prepare(images))
        boxes, scores, _ = candidates(rpn, rpn(maps), size)
        levels = torch.arange(len(maps)).repeat_interleave(rpn.test_cfg.nms_pre)
        proposals, objectness, _ = best(boxes, scores, levels.expand_as(scores), rpn.test_cfg)

        number = proposals.shape[1]
        head = roi_head.bbox_head
        logits, deltas = head(features(roi_head.bbox_roi_extractor, maps, proposals))
        scores = logits.softmax(-1)[:, :-1].unflatten(0, (-1, number))  # B number C
        scores = scores * (objectness > 0)[..., None]
        deltas = deltas.unflatten(1, (-1, 4)).unflatten(0, (-1, number))  # B number C 4
        boxes = decode(head.bbox_coder, proposals[:, :, None], deltas, size)
        labels = torch.arange(head.num_classes).expand_as(scores)
        boxes, scores, labels = best(
            boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1), roi_head.test_cfg
        )

        # the mask head is dear: M of B·K boxes, never none, which onnxruntime cannot normalise
        shown = scores.flatten() > 0
        real = (shown | (torch.arange(len(shown)) == 0)).nonzero()[:, 0]
        masks = roi_head.mask_head(features(roi_head.mask_roi_extractor, maps, boxes)[real])
        own = labels.flatten()[real, None, None, None].expand(-1, 1, *masks.shape[2:])
        masks = masks.gather(1, own)[:, 0].sigmoid() * shown[real, None, None]  # M h w
        empty = masks.new_zeros(labels.numel(), *masks.shape[1:])
        masks = empty.index_put((real,), masks).unflatten(0, labels.shape)
        return *self.results(boxes, scores, labels), masks


class Bins(nn.Module):
    """`nn.AdaptiveAvgPool2d` of any size of map, as two matrix products.

    Shape: B C H W → B C n n.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def shares(self, length: int) -> Tensor:
        """What each place counts in each bin; bins that share a place overlap. Shape: n length."""
        bins, places = torch.arange(self.number)[:, None], torch.arange(length)
        begin = bins * length // self.number
        end = ((bins + 1) * length + self.number - 1) // self.number
        inside = ((places >= begin) & (places < end)).float()
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.shares(x.shape[2]) @ x @ self.shares(x.shape[3]).T


class EncoderDecoder(Exportable):
    """Shape: B 3 H W → label map B H W."""

    names = ('label_map',)

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        from mmseg.models.utils import Upsample

        for name, module in list(model.named_modules()):
            if isinstance(module, Upsample):  # rounds sizes in Python: an exporter freezes them
                model.set_submodule(
                    name,
                    nn.Upsample(
                        module.size, module.scale_factor, module.mode, module.align_corners
                    ),
                )
            elif isinstance(module, nn.AdaptiveAvgPool2d) and type(module.output_size) is int:
                model.set_submodule(name, Bins(module.output_size))  # ONNX has it for one bin alone

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model.decode_head(self.model.extract_feat(self.prepare(images)))
        logits = F.interpolate(
            logits, images.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        return logits.argmax(1)


class Backbone(Exportable):
    """Shape: B 3 H W → the backbone's maps B C_i H_i W_i."""

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        self.names = tuple(f'stride_{info.stride}' for info in self.model.backbone.feature_info)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.backbone(self.prepare(images))


# Whole models by `type` in the config.
WHOLE: dict[str, type[Exportable]] = {
    'RetinaNet': OneStage,
    'RTMDet': OneStage,
    'MaskRCNN': MaskRCNN,
    'EncoderDecoder': EncoderDecoder,
}


def check(model: Mapping[str, Any]) -> None:
    """See that what is written above computes what a config's `model` does.

    Raises:
        UserError: it does not.
    """
    kind = model.get('type')
    if kind not in WHOLE:
        raise UserError(
            f'model.type={kind!r} cannot be exported, only {", ".join(WHOLE)}; '
            f'of any other model the backbone, with --backbone-only'
        )
    if model.get('bbox_head', {}).get('type') == 'RTMDetInsSepBNHead':
        raise UserError(
            "model.bbox_head: masks of RTMDet-Ins cannot be exported, only RTMDet's "
            'boxes; of any model the backbone, with --backbone-only'
        )
    if kind == 'EncoderDecoder' and model['test_cfg'].get('mode', 'whole') != 'whole':
        raise UserError(
            'model.test_cfg.mode: only whole pictures can be exported, not a sliding window'
        )
    stages = model['test_cfg'].values() if kind == 'MaskRCNN' else [model['test_cfg']]
    for stage in stages if kind != 'EncoderDecoder' else []:
        if stage['nms'].get('type', 'nms') != 'nms' or stage['nms'].keys() - {
            'type',
            'iou_threshold',
        }:
            raise UserError(
                f'model.test_cfg: nms={dict(stage["nms"])} cannot be exported, only '
                f"type 'nms' with an iou_threshold"
            )
