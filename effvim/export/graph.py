"""Detectors and segmentors as functions of an image that can be traced into an ONNX graph.

mmdet's own post-processing cannot be exported, see `export.operators`. The modules here do the same
arithmetic on tensors of fixed shapes, around the trained network.

Shapes: B images, K = max_per_img boxes of each, C classes. Boxes are x1, y1, x2, y2, in pixels of
the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvim.export.layers import replace_layers
from effvim.export.operators import join, pool, soften, suppress

BOXES = ('boxes', 'scores', 'labels', 'count')  # outputs of all detectors
ALL = 2**31 - 1  # boxes of an image: no limit


def topk(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row and their indices; a row that is too short is padded with 0.

    Shape: scores B N → B number, B number.
    """
    last = scores.shape[1] - 1
    values, indices = F.pad(scores, (0, number)).topk(number)
    return values, indices.clamp(max=last)


def above(scores: Tensor, threshold: float) -> Tensor:
    """The scores, set to 0 unless they are above a threshold."""
    return scores * (scores > threshold)


def gather_rows(x: Tensor, indices: Tensor) -> Tensor:
    """Select rows of each image. Shape: x B N D, indices B K → B K D."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def rows(x: Tensor, length: int) -> Tensor:
    """The values of a map by prior, in mmdet's order. Shape: B A·D H W → B H·W·A D, D = length."""
    return x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, length))


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

    YOLOX has no coder: its deltas are not normalised, its boxes not clipped.

    Shape: priors … 4 (anchors) or … 2 (points), deltas … 4 → … 4.
    """
    if priors.shape[-1] == 2:
        corners = torch.cat([priors - deltas[..., :2], priors + deltas[..., 2:]], -1)
    else:
        limit = math.inf
        if coder is not None:
            deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
            limit = -math.log(16 / 1000)  # mmdet's limit of how much a box may grow or shrink
        extent = priors[..., 2:] - priors[..., :2]
        centre = (priors[..., :2] + priors[..., 2:]) * 0.5 + extent * deltas[..., :2]
        half = extent * deltas[..., 2:].clamp(-limit, limit).exp() * 0.5
        corners = torch.cat([centre - half, centre + half], -1)
    if coder is None:
        return corners
    x, y = corners[..., 0::2].clamp(0, size[1]), corners[..., 1::2].clamp(0, size[0])
    return torch.stack([x, y], -1).flatten(-2)


def candidates(
    head: Any,
    maps: Sequence[Sequence[Tensor]],
    size: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The boxes of a head with anchors or points before NMS; those that do not count score 0.

    Of each level they are the `nms_pre` highest-scoring pairs of prior and class; of YOLOX the
    best class of every prior. Where the head predicts the quality of a box, its score is multiplied
    by that: after the choice and the threshold, but in YOLOX before the threshold.

    Shape: maps are logits, each B A·C H W; deltas, each B A·4 H W; and qualities, each B A H W, if
    the head has them → boxes B N 4, scores B N, labels B N, priors B N: their number among those
    of all levels.
    """
    classes, settings = head.cls_out_channels, head.test_cfg
    coder, threshold = getattr(head, 'bbox_coder', None), settings.get('score_thr', 0.0)
    levels, first = [], 0
    for level, (logits, deltas, *qualities) in enumerate(zip(*maps)):
        priors = priors_of(head.prior_generator, level, *logits.shape[2:])
        scores, deltas = rows(logits, classes).sigmoid(), rows(deltas, 4)
        quality = [rows(x, 1)[..., 0].sigmoid() for x in qualities]  # B H·W·A
        if coder is None:  # YOLOX; in its terms a point is a square as large as a cell
            half = torch.tensor(head.prior_generator.strides[level]) / 2
            priors = torch.cat([priors - half, priors + half], -1)
            scores, labels = scores.max(-1)
            chosen = torch.arange(scores.shape[1]).expand_as(scores)
            scores = above(scores * quality[0], threshold)
        else:
            scores, indices = topk(scores.flatten(1), settings.nms_pre)
            chosen, labels = indices // classes, indices % classes
            scores, deltas = above(scores, threshold), gather_rows(deltas, chosen)
            for x in quality:
                scores = scores * x.gather(1, chosen)
        boxes = decode(coder, priors[chosen], deltas, size)
        extent = boxes[..., 2:] - boxes[..., :2]
        large_enough = (extent > settings.get('min_bbox_size', -1)).all(-1)
        levels.append((boxes, scores * large_enough, labels, chosen + first))
        first += priors.shape[0]  # tracing freezes what len returns
    boxes, scores, labels, sources = (torch.cat(tensors, 1) for tensors in zip(*levels))
    return boxes, scores, labels, sources


def apply_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The boxes that NMS keeps within each group, highest-scoring first, padded with score 0.

    Without `max_per_img` (YOLOX) it may keep all, K = N.

    Shape: boxes B N 4, scores and groups B N → boxes B K 4, scores B K, groups B K, and indices
    B K of the boxes.
    """
    number, nms = settings.get('max_per_img', scores.shape[1]), settings.nms
    # Groups are moved apart by as much as in mmdet: rounding decides about boxes at the threshold.
    distance = torch.where((scores > 0)[..., None], boxes, 0).amax((1, 2)) + 1
    moved = boxes + (groups.to(boxes) * distance[:, None])[..., None]
    if nms.get('type', 'nms') == 'soft_nms':
        # One step for each box that is kept, over all boxes: the M that score in any image, and
        # one of those that do not, since there must be one.
        counted = (scores > 0).any(0) | (torch.arange(scores.shape[1]) == 0)
        chosen = counted.nonzero()[:, 0]
        softened = soften(
            moved[:, chosen],
            scores[:, chosen],
            nms.get('method', 'linear'),
            nms.get('iou_threshold', 0.3),
            nms.get('sigma', 0.5),
            nms.get('min_score', 1e-3),
            number,
        )
        kept = torch.zeros_like(scores).T.index_put((chosen,), softened.T).T
    else:
        kept = suppress(moved, scores, nms.iou_threshold, settings.get('max_per_img', ALL))
    scores, indices = topk(kept, number)
    return gather_rows(boxes, indices), scores, groups.gather(1, indices), indices


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


def dynamic_masks(head: Any, kernels: Tensor, priors: Tensor, prototypes: Tensor) -> Tensor:
    """The mask logits of RTMDet-Ins, by convolutions with predicted kernels.

    Shape: kernels B K P: weights, then biases, of all layers; priors B K 3: x, y and stride;
    prototypes B D h w → B K h w.
    """
    height, width = prototypes.shape[2:]
    points = priors_of(head.prior_generator, 0, height, width)  # h·w 2
    distance = priors[:, :, :2, None] - points.T
    distance = distance / (priors[:, :, 2:, None] * 8)  # B K 2 h·w
    shared = prototypes.flatten(2)[:, None].expand(-1, kernels.shape[1], -1, -1)
    x = torch.cat([distance, shared], 2)  # B K 2+D h·w
    numbers = list(head.weight_nums) + list(head.bias_nums)
    weights = kernels.split(numbers, -1)
    layers = len(head.bias_nums)
    for i, (weight, bias) in enumerate(zip(weights[:layers], weights[layers:])):
        x = weight.unflatten(2, (bias.shape[2], -1)) @ x + bias[..., None]
        if i < layers - 1:
            x = x.relu()
    return x[:, :, 0].unflatten(2, (height, width))


def stages(modules: Any) -> list[Any]:
    """The modules of all stages of a cascade, or the one module of a head without stages."""
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


class Exportable(nn.Module):
    """A trained model with its preprocessing and post-processing as one function of images.

    Args:
        model: the trained model; layers of it are replaced in place.
        prepare: the preprocessing of images; identity if the caller does it.

    Attributes:
        names: of the outputs.
    """

    names: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__()
        self.model: Any = replace_layers(model)
        self.prepare = prepare

    @staticmethod
    def results(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and the number of boxes; padding is 0, 0 and −1."""
        valid = scores > 0
        return boxes * valid[..., None], scores, torch.where(valid, labels, -1), valid.sum(1)


class Dense(Exportable):
    """Detectors with a box at every anchor or point: RetinaNet, ATSS, FCOS, YOLOX and RTMDet.

    Shape: images B 3 H W → boxes B K 4, scores B K, labels B K, count B; of RTMDet-Ins also mask
    logits B K H/8 W/8 of the whole (padded) image, 0 in the padding.
    """

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        self.with_masks = hasattr(self.model.bbox_head, 'mask_head')
        self.names = (*BOXES, 'mask_logits') if self.with_masks else BOXES

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        outputs = head(self.model.extract_feat(self.prepare(images)))
        maps = outputs[:2] if self.with_masks else outputs
        boxes, scores, labels, sources = candidates(head, maps, images.shape[2:])
        boxes, scores, labels, indices = apply_nms(boxes, scores, labels, head.test_cfg)
        results = self.results(boxes, scores, labels)
        if not self.with_masks:
            return results
        _, _, kernels, prototypes = outputs
        priors = []
        for level, x in enumerate(kernels):
            points = priors_of(head.prior_generator, level, *x.shape[2:])
            stride = head.prior_generator.strides[level][0]
            priors.append(F.pad(points, (0, 1), value=stride))
        chosen = sources.gather(1, indices)
        kernels = torch.cat([rows(x, x.shape[1]) for x in kernels], 1)
        masks = dynamic_masks(
            head, gather_rows(kernels, chosen), torch.cat(priors)[chosen], prototypes
        )
        return *results, masks * (scores > 0)[..., None, None]


class TwoStage(Exportable):
    """Faster R-CNN, Mask R-CNN and Cascade R-CNN.

    Shape: images B 3 H W → as `Dense`, and with a mask head masks B K 28 28: probabilities within
    each box, 0 in the padding.
    """

    def __init__(self, model: nn.Module, prepare: nn.Module) -> None:
        super().__init__(model, prepare)
        self.names = (*BOXES, 'masks') if self.model.roi_head.with_mask else BOXES

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        rpn, roi_head, size = self.model.rpn_head, self.model.roi_head, images.shape[2:]
        maps = self.model.extract_feat(self.prepare(images))
        boxes, scores, _, _ = candidates(rpn, rpn(maps), size)
        levels = torch.arange(len(maps)).repeat_interleave(rpn.test_cfg.nms_pre)
        regions, objectness, _, _ = apply_nms(boxes, scores, levels.expand_as(scores), rpn.test_cfg)

        number = regions.shape[1]
        logits: list[Tensor] = []
        for extractor, head in zip(stages(roi_head.bbox_roi_extractor), stages(roi_head.bbox_head)):
            if logits:  # of the stage before: its box of the most probable class
                best = logits[-1][..., :-1].argmax(-1, keepdim=True) % boxes.shape[2]
                regions = boxes.gather(2, best[..., None].expand(-1, -1, 1, 4))[:, :, 0]
            x, deltas = head(roi_features(extractor, maps, regions))
            logits.append(x.unflatten(0, (-1, number)))  # B number C+1
            deltas = deltas.unflatten(1, (-1, 4)).unflatten(0, (-1, number))  # B number C or 1, 4
            boxes = decode(head.bbox_coder, regions[:, :, None], deltas, size)
        scores = torch.stack(logits).mean(0).softmax(-1)[..., :-1]
        scores = above(scores, roi_head.test_cfg.score_thr) * (objectness > 0)[..., None]
        boxes = boxes.expand(-1, -1, scores.shape[2], -1)
        labels = torch.arange(scores.shape[2]).expand_as(scores)
        boxes, scores, labels, _ = apply_nms(
            boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1), roi_head.test_cfg
        )
        results = self.results(boxes, scores, labels)
        if not roi_head.with_mask:
            return results
        return *results, self.masks(maps, boxes, scores, labels)

    def masks(
        self, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities of the masks of boxes. Shape: boxes B K 4, the others B K → B K h w."""
        # The mask head is expensive: it runs on the M valid of B·K boxes, and at least on one,
        # since onnxruntime cannot normalise an empty batch.
        roi_head = self.model.roi_head
        valid = scores.flatten() > 0
        chosen = (valid | (torch.arange(valid.shape[0]) == 0)).nonzero()[:, 0]
        predicted = []
        for extractor, head in zip(stages(roi_head.mask_roi_extractor), stages(roi_head.mask_head)):
            masks = head(roi_features(extractor, maps, boxes)[chosen])  # M C h w
            own_class = labels.flatten()[chosen, None, None, None].expand(-1, 1, *masks.shape[2:])
            predicted.append(masks.gather(1, own_class)[:, 0].sigmoid())  # M h w
        masks = torch.stack(predicted).mean(0) * valid[chosen, None, None]
        empty = masks.new_zeros(labels.numel(), *masks.shape[1:])
        return empty.index_put((chosen,), masks).unflatten(0, labels.shape)


class Queries(Exportable):
    """Deformable DETR. Shape: as `Dense`; all K boxes count, there is neither NMS nor threshold."""

    names = BOXES

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        model, head = self.model, self.model.bbox_head
        maps = model.extract_feat(self.prepare(images))
        # The encoder looks from the centre of every cell, x y from 0 to 1, into all maps.
        cells = join([self.with_places(x, level) for x, level in zip(maps, model.level_embed)])
        memory, position, places = cells.split([maps[0].shape[1]] * 2 + [2], 2)  # B N D, D, 2
        sizes = [side for x in maps for side in (x.shape[3], x.shape[2])]
        about_maps = dict(
            maps=maps,
            spatial_shapes=torch.stack([torch.full((), side) for side in sizes]).view(-1, 2),
            level_start_index=None,
            valid_ratios=images.new_ones(images.shape[0], len(maps), 2, dtype=torch.float32),
        )
        for layer in model.encoder.layers:
            memory = layer(
                query=memory,
                query_pos=position,
                key_padding_mask=None,
                reference_points=places[:, :, None].expand(-1, -1, len(maps), -1),
                **about_maps,
            )
        decoder_inputs, _ = model.pre_decoder(memory, None, None)
        hidden, references = model.decoder(
            value=decoder_inputs.pop('memory'),
            key_padding_mask=None,
            reg_branches=head.reg_branches if model.with_box_refine else None,
            **decoder_inputs,
            **about_maps,
        )
        references = [decoder_inputs['reference_points'], *references]
        logits, boxes = (x[-1] for x in head(hidden, references))  # B Q C, B Q 4: centre and size

        scores, indices = logits.flatten(1).sigmoid().topk(head.test_cfg.max_per_img)
        boxes = gather_rows(boxes, indices // head.num_classes)
        half = boxes[..., 2:] * 0.5
        corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)
        height, width = images.shape[2:]
        x, y = corners[..., 0::2] * width, corners[..., 1::2] * height
        corners = torch.stack([x.clamp(0, width), y.clamp(0, height)], -1).flatten(-2)
        return self.results(corners, scores, indices % head.num_classes)

    def with_places(self, x: Tensor, level: Tensor) -> Tensor:
        """A map, the encoding of the places of its cells, and these places, x y from 0 to 1.

        Shape: x B D H W, level D → B 2·D+2 H W.
        """
        batch, _, height, width = x.shape
        position = self.model.positional_encoding(None, input=x) + level[:, None, None]
        place_y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
        place_x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
        places = torch.stack([place_x, place_y]).expand(batch, -1, -1, -1)
        return torch.cat([x, position, places], 1)


class Segmentor(Exportable):
    """A segmentor on whole images or in a sliding window.

    Shape: images B 3 H W → label map B H W.
    """

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

    def logits(self, x: Tensor) -> Tensor:
        """The network's output at the size of its input. Shape: B 3 H W → B C H W."""
        logits = self.model.decode_head(self.model.extract_feat(x))
        return F.interpolate(
            logits, x.shape[2:], mode='bilinear', align_corners=self.model.align_corners
        )

    def slide(self, x: Tensor) -> Tensor:
        """The mean output of overlapping windows, which are computed as one batch.

        Shape: B 3 H W → B C H W.
        """
        size, test_cfg = x.shape[2:], self.model.test_cfg
        crop = [min(pair) for pair in zip(test_cfg.crop_size, size)]
        tops, lefts = (
            # the last window ends where the image does
            [min(i * step, length - part) for i in range(-(-(length - part) // step) + 1)]
            for length, part, step in zip(size, crop, test_cfg.stride)
        )
        places = [(top, left) for top in tops for left in lefts]
        windows = [x[:, :, top : top + crop[0], left : left + crop[1]] for top, left in places]
        total: Any = 0
        count: Any = 0
        for (top, left), part in zip(places, self.logits(torch.cat(windows)).split(len(x))):
            margins = left, size[1] - left - crop[1], top, size[0] - top - crop[0]
            total = total + F.pad(part, margins)
            count = count + F.pad(torch.ones(crop), margins)
        return total / count

    def forward(self, images: Tensor) -> Tensor:
        x = self.prepare(images)
        logits = self.slide(x) if self.model.test_cfg.mode == 'slide' else self.logits(x)
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
    'RetinaNet': Dense,
    'ATSS': Dense,
    'FCOS': Dense,
    'YOLOX': Dense,
    'RTMDet': Dense,
    'FasterRCNN': TwoStage,
    'MaskRCNN': TwoStage,
    'CascadeRCNN': TwoStage,
    'DeformableDETR': Queries,
    'EncoderDecoder': Segmentor,
}
