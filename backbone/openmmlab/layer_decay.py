"""`constructor='EffViMLayerDecay'` for configs: layers near the image learn more slowly.

Registered in mmengine's root registry, where mmdet and mmseg both find it.
"""

from __future__ import annotations

import re
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from backbone.efficientvim import EfficientViM
from backbone.errors import UserError

PARAMETER = re.compile(r'(?:patch_embed|stages\.(\d+)\.(?:blocks\.(\d+)|downsample))\.')


def layers_above(backbone: EfficientViM, name: str) -> int:
    """Count the layers between a parameter of `backbone` and the neck, its own included.

    Every block is a layer, the last one is number 1; the stem is one more. A stage's downsampling
    belongs to the stage's last block.

    Raises:
        UserError: `name` is in neither the stem nor a stage.
    """
    depths = [len(stage.blocks) for stage in backbone.stages]  # type: ignore[arg-type]
    match = PARAMETER.match(name)
    if not match:
        raise UserError(
            f'EffViMLayerDecay: backbone.{name} belongs neither to the stem nor '
            f'to a stage: its layer is unknown'
        )
    if match[1] is None:
        return sum(depths) + 1
    stage = int(match[1])
    block = depths[stage] - 1 if match[2] is None else int(match[2])
    return sum(depths[stage:]) - block


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EffViMLayerDecay(DefaultOptimWrapperConstructor):
    """Layer-wise learning-rate decay: the rate shrinks by a factor per layer towards the image.

        optim_wrapper = dict(
            constructor='EffViMLayerDecay', paramwise_cfg=dict(decay_rate=0.9))

    Neck and heads have the optimiser's rate, layer k (see `layers_above`) has that rate times
    decay_rateᵏ. The other keys of `paramwise_cfg` are those of mmengine's default constructor.

    Raises:
        UserError: `decay_rate` is not above 0 and at most 1; when called, the backbone is no
            `EfficientViM`.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.decay_rate = self.paramwise_cfg.get('decay_rate')
        if not isinstance(self.decay_rate, (int, float)) or not 0 < self.decay_rate <= 1:
            raise UserError(
                f'EffViMLayerDecay needs optim_wrapper.paramwise_cfg.decay_rate '
                f'above 0 and at most 1, got {self.decay_rate}'
            )

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Collect the parameters as mmengine does, child by child, then apply the decay."""
        super().add_params(params, module, prefix, *args, **kwargs)
        if prefix:
            return
        backbone = getattr(module, 'backbone', None)
        if not isinstance(backbone, EfficientViM):
            raise UserError(
                f'EffViMLayerDecay is for a backbone of type EfficientViM, the '
                f'model has {type(backbone).__name__}'
            )
        names = {parameter: name for name, parameter in backbone.named_parameters()}
        for group in params:
            (parameter,) = group['params']
            if parameter in names:
                power = layers_above(backbone, names[parameter])
                group['lr'] = group.get('lr', self.base_lr) * self.decay_rate**power
