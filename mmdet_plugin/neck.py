"""`EfficientViMFPN`: the neck of the published EfficientViM detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from backbone.errors import UserError
from backbone.layers import LayerNorm2d


@MODELS.register_module()
class EfficientViMFPN(BaseModule):
    """FPN over the backbone's three maps, with finer levels by transposed convolutions.

    LayerNorm over channels on each input, 1×1 laterals, top-down addition, a 3×3 convolution per
    level. Then `num_transposed` finer levels, each a 2×2 transposed convolution of stride 2 on the
    one before, beginning with the finest lateral after the top-down addition, and a 3×3
    convolution of its own. Then coarser levels, 3×3 convolutions of stride 2, the first on the
    normalised coarsest input, until there are `num_outs`. No other norm, no activation.

    With strides 16, 32, 64 in, RetinaNet uses one transposed level (8 to 128) and Mask R-CNN two
    (4 to 64).

    Args:
        in_channels: channels of the input maps, finest first.
        out_channels: channels of every output.
        num_transposed: 0, 1 or 2 finer levels.
        num_outs: number of outputs; at least the inputs and the finer levels.
        norm_cfg: a norm after every convolution except the transposed ones; published: none.
        init_cfg: mmengine's initialisation config; default: as published, Xavier-uniform
            convolutions and Kaiming-normal transposed ones, biases 0.

    Raises:
        UserError: `num_transposed` or `num_outs` out of range; in `forward`, maps that are not
            those of `in_channels`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_transposed: int = 1,
        num_outs: int = 5,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(type='Xavier', layer='Conv2d', distribution='uniform'),
                dict(type='Kaiming', layer='ConvTranspose2d', mode='fan_out', bias=0),
            ]
        super().__init__(init_cfg)
        self.in_channels = tuple(in_channels)
        num_coarser = num_outs - len(self.in_channels) - num_transposed
        if num_transposed not in (0, 1, 2):
            raise UserError(f'num_transposed must be 0, 1 or 2, got {num_transposed}')
        if not self.in_channels or num_coarser < 0:
            raise UserError(
                f'num_outs={num_outs} is less than {len(self.in_channels)} inputs and '
                f'{num_transposed} transposed levels'
            )

        def conv(channels: int, kernel_size: int, stride: int = 1) -> ConvModule:
            # bias also before a norm, which mmcv would drop: one set of names either way
            return ConvModule(
                channels,
                out_channels,
                kernel_size,
                stride,
                padding=kernel_size // 2,
                bias=True,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )

        self.norms = nn.ModuleList(LayerNorm2d(c, eps=1e-5) for c in self.in_channels)
        self.lateral_convs = nn.ModuleList(conv(c, 1) for c in self.in_channels)
        self.fpn_convs = nn.ModuleList(conv(out_channels, 3) for _ in self.in_channels)
        self.fpn_convs.extend(
            conv(out_channels if i else self.in_channels[-1], 3, stride=2)
            for i in range(num_coarser)
        )
        # in the order they are computed: the coarser of two levels first
        self.extra_trans_convs = nn.ModuleList(
            ConvModule(
                out_channels,
                out_channels,
                2,
                stride=2,
                conv_cfg=dict(type='deconv'),
                bias=True,
                act_cfg=None,
            )
            for _ in range(num_transposed)
        )
        # in the order of the outputs: the finest level first
        self.extra_fpn_convs = nn.ModuleList(conv(out_channels, 3) for _ in range(num_transposed))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return `num_outs` maps, B `out_channels` H_i W_i, finest first.

        `inputs`: B `in_channels[i]` H_i W_i, finest first.
        """
        channels = tuple(x.shape[1] for x in inputs)
        if channels != self.in_channels:
            raise UserError(
                f'the neck was built for in_channels={list(self.in_channels)}, but the '
                f'backbone gives maps of {list(channels)} channels'
            )
        inputs = [norm(x) for norm, x in zip(self.norms, inputs)]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size, mode='nearest')

        finer = [laterals[0]]
        for up in self.extra_trans_convs:
            finer.insert(0, up(finer[0]))
        outs = [conv(x) for conv, x in zip(self.extra_fpn_convs, finer)]
        outs += [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        coarser = inputs[-1]
        for conv in self.fpn_convs[len(laterals) :]:
            coarser = conv(coarser)
            outs.append(coarser)
        return tuple(outs)
