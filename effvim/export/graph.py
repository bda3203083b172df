"""Detectors and segmentors as functions of an image that can be traced into an ONNX graph.

mmdet's own post-processing cannot be exported, see `export.operators`. The modules here do the same
arithmetic on tensors of fixed shapes, around the trained network.

Shapes: B images, K = max_per_img boxes of each, C classes. Boxes are x1, y1, x2, y2, in pixels of
the input.
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


def topk(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row and their indices; a row that is too short is padded with 0.

    Shape: scores B N → B number, B number.
    """
    last = scores.shape[1] - 1
    values, indices = F.pad(scores, (0, number)).topk(number)
    return values, indices.clamp(max=last)


def gather_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Select rows of each image. Shape: x B N D, indices B K → B K D."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def priors_of(generator: Any, level: int, height: int, width: int) -> Tensor:
    """All priors of a map of that size in mmdet's order: A anchors for each position, or a point.

    Shape: H·W·A 4 for anchors, H·W 2 for points.
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
    """Decode predicted deltas to boxes, clipped to the image of that height and width.

    Shape: priors … 4 (anchors) or … 2 (points), deltas … 4 → … 4.
    """
    if priors.shape[-1] == 2:
        corners = torch.cat([priors - deltas[..., :2], priors + deltas[..., 2:]], -1)
    else:
        deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
        limit = -math.log(16 / 1000)  # mmdet's limit of how much a box may grow or shrink
        extent = priors[..., 2:] - priors[..., :2]
        centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + extent * deltas[..., :2]
        half = extent * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
        corners = torch.cat([centre - half, centre + half], -1)
    x, y = corners[..., 0::2].clamp(0, size[1]), corners[..., 1::2].clamp(0, size[0])
    return torch.stack([x, y], -1).flatten(-2)


def candidates(
    head: Any, maps: tuple[Sequence[Tensor], Sequence[Tensor]], size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The `nms_pre` highest-scoring pairs of prior and class of each level, before NMS.

    Boxes below the minimum size get score 0.

    Shape: maps are logits, each B A·C H W, and deltas, each B A·4 H W → boxes B N 4, scores B N,
    labels B N.
    """
    classes, settings = head.cls_out_channels, head.test_cfg
    levels = []
    for level, (logits, deltas) in enumerate(zip(*maps)):
        priors = priors_of(head.prior_generator, level, *logits.shape[2:])
        scores = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()
        scores, indices = topk(scores, settings.nms_pre)
        chosen = indices // classes
        deltas = gather_rows(deltas.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)), chosen)
        boxes = decode(head.bbox_coder, priors[chosen], deltas, size)
        extent = boxes[..., 2:] - boxes[..., :2]
        large_enough = (extent > settings.min_bbox_size).all(-1)
        levels.append((boxes, scores * large_enough, indices % classes))
    boxes, scores, labels = (torch.cat(tensors, 1) for tensors in zip(*levels))
    return boxes, scores, labels


def apply_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes that NMS keeps within each group, highest-scoring first, padded with score 0.

    Shape: boxes B N 4, scores and groups B N → boxes B K 4, scores B K, groups B K.
    """
    number, threshold = settings.max_per_img, settings.get('score_thr', 0.0)
    valid = scores > threshold
    # Groups are moved apart by as much as in mmdet: rounding decides about boxes at the threshold.
    distance = torch.where(valid[..., None], boxes, 0).amax((1, 2)) + 1
    moved = boxes + (groups.to(boxes) * distance[:, None])[..., None]
    kept = suppress(moved, scores, settings.nms.iou_threshold, threshold, number)
    scores, indices = topk(kept, number)
    return gather_rows(boxes, indices), scores, groups.gather(1, indices)


def roi_features(extractor: Any, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The features that a RoI extractor of mmdet returns for boxes. Shape: B K 4 → B·K C h w."""
    images = torch.arange(boxes.shape[0]).to(boxes)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat([images, boxes], -1).flatten(0, 1)  # B·K 5
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
    """A trained model with its preprocessing and post-processing as one function of images.

    Args:
        model: the trained model.
        prepare: the preprocessing of images; identity if the caller does it.

    Attributes:
        names: of the outputs.
    """

    names: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.prepare = prepare

    @staticmethod
    def results(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and the number of boxes; padding is 0, 0 and −1."""
        valid = scores > 0
        return boxes * valid[..., None], scores, torch.where(valid, labels, -1), valid.sum(1)


class OneStage(Exportable):
    """RetinaNet and RTMDet.

    Shape: images B 3 H W → boxes B K 4, scores B K, labels B K, count B.
    """

    names = ('boxes', 'scores', 'labels', 'count')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        maps = head(self.model.extract_feat(self.prepare(images)))
        boxes, scores, labels = candidates(head, maps, images.shape[2:])
        return self.results(*apply_nms(boxes, scores, labels, head.test_cfg))


class MaskRCNN(Exportable):
    """Mask R-CNN.

    Shape: images B 3 H W → as `OneStage`, and masks B K 28 28: probabilities within each box, 0 in
    the padding.
    """

    names = (*OneStage.names, 'masks')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rpn, roi_head, size = self.model.rpn_head, self.model.roi_head, images.shape[2:]
        maps = self.model.extract_feat(self.prepare(images))
        boxes, scores, _ = candidates(rpn, rpn(maps), size)
        levels = torch.arange(len(maps)).repeat_interleave(rpn.test_cfg.nms_pre)
        proposals, objectness, _ = apply_nms(boxes, scores, levels.expand_as(scores), rpn.test_cfg)

        number = proposals.shape[1]
        head = roi_head.bbox_head
        logits, deltas = head(roi_features(roi_head.bbox_roi_extractor, maps, proposals))
        scores = logits.softmax(-1)[:, :-1].unflatten(0, (-1, number))  # B number C
        scores = scores * (objectness > 0)[..., None]
        deltas = deltas.unflatten(1, (-1, 4)).unflatten(0, (-1, number))  # B number C 4
        boxes = decode(head.bbox_coder, proposals[:, :, None], deltas, size)
        labels = torch.arange(head.num_classes).expand_as(scores)
        boxes, scores, labels = apply_nms(
            boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1), roi_head.test_cfg
        )

        # The mask head is expensive: it runs on the M valid of B·K boxes, and at least on one,
        # since onnxruntime cannot normalise an empty batch.
        valid = scores.flatten() > 0
        chosen = (valid | (torch.arange(len(valid)) == 0)).nonzero()[:, 0]
        regions = roi_features(roi_head.mask_roi_extractor, maps, boxes)[chosen]
        masks = roi_head.mask_head(regions)  # M C h w
        own_class = labels.flatten()[chosen, None, None, None].expand(-1, 1, *masks.shape[2:])
        masks = masks.gather(1, own_class)[:, 0].sigmoid() * valid[chosen, None, None]  # M h w
        empty = masks.new_zeros(labels.numel(), *masks.shape[1:])
        masks = empty.index_put((chosen,), masks).unflatten(0, labels.shape)
        return *self.results(boxes, scores, labels), masks


class AdaptivePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` for maps of any size, as two matrix products.

    Shape: B C H W → B C n n.

    Args:
        number: of bins along each axis, n.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def weights(self, length: int) -> Tensor:
        """The weight of each position in each bin; bins may overlap. Shape: n length."""
        bins, positions = torch.arange(self.number)[:, None], torch.arange(length)
        begin = bins * length // self.number
        end = ((bins + 1) * length + self.number - 1) // self.number
        inside = ((positions >= begin) & (positions < end)).float()
        return inside / inside.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x.shape[2]) @ x @ self.weights(x.shape[3]).T


class EncoderDecoder(Exportable):
    """A segmentor. Shape: images B 3 H W → label map B H W."""

    names = ('label_map',)

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        from mmseg.models.utils import Upsample

        for name, module in list(model.named_modules()):
            if isinstance(module, Upsample):  # rounds sizes in Python, which tracing freezes
                model.set_submodule(
                    name,
                    nn.Upsample(
                        module.size, module.scale_factor, module.mode, module.align_corners
                    ),
                )
            elif isinstance(module, nn.AdaptiveAvgPool2d) and type(module.output_size) is int:
                model.set_submodule(name, AdaptivePool(module.output_size))  # ONNX has one bin only

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model.decode_head(self.model.extract_feat(self.prepare(images)))
        logits = F.interpolate(
            logits, images.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )
        return logits.argmax(1)


class Backbone(Exportable):
    """The backbone of a model. Shape: images B 3 H W → maps, each B C_i H_i W_i."""

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        self.names = tuple(f'stride_{info.stride}' for info in self.model.backbone.feature_info)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.backbone(self.prepare(images))


# Model `type` in the config: what exports it.
EXPORTABLE: dict[str, type[Exportable]] = {
    'RetinaNet': OneStage,
    'RTMDet': OneStage,
    'MaskRCNN': MaskRCNN,
    'EncoderDecoder': EncoderDecoder,
}


def check(model: Mapping[str, Any]) -> None:
    """Check that the model of a config can be exported.

    Raises:
        UserError: its type, head or post-processing is not supported.
    """
    kind = model.get('type')
    if kind not in EXPORTABLE:
        raise UserError(
            f'model.type={kind!r} cannot be exported, only {", ".join(EXPORTABLE)}; add '
            f'--backbone-only to export the backbone of any other model'
        )
    if model.get('bbox_head', {}).get('type') == 'RTMDetInsSepBNHead':
        raise UserError(
            'model.bbox_head: masks of RTMDet-Ins cannot be exported, only boxes of RTMDet; add '
            '--backbone-only to export the backbone of any model'
        )
    if kind == 'EncoderDecoder' and model['test_cfg'].get('mode', 'whole') != 'whole':
        raise UserError(
            'model.test_cfg.mode: only inference on whole images can be exported, not a sliding '
            'window'
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
