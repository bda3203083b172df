"""`type='EfficientViM'` for configs, in mmengine's root registry, where mmdet and mmseg find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from backbone.efficientvim import EfficientViM
from backbone.weights import load_backbone, read, resolve


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$')
def load_from_safetensors(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read safetensors for mmengine, and so for the tools of mmdet and mmseg."""
    return read(filename)


@CheckpointLoader.register_scheme(prefixes='effvim://')
def load_published(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read published weights by name for mmengine, see `backbone.hub.resolve`."""
    return read(resolve(filename))


@MODELS.register_module(name='EfficientViM')
class EfficientViMBackbone(EfficientViM, BaseModule):
    """`EfficientViM` with mmengine's `init_cfg`.

    `init_cfg=dict(type='Pretrained', checkpoint=…)` loads a file in the authors' or timm's format,
    a timm hub id or effvim:// and the name of published weights; with `prefix='backbone'` a
    detector's or segmentor's file, with `ema=True` a file's averaged weights instead of the raw
    ones, see `weights.weights_key`. A missing tensor or one of another shape is an error. The
    other arguments are `EfficientViM`'s.

    Args:
        arch: see `EfficientViM`.
        out_indices: see `EfficientViM`.
        frozen_stages: see `EfficientViM`.
        norm_eval: see `EfficientViM`.
        with_cp: see `EfficientViM`.
        drop_path_rate: see `EfficientViM`.
        in_channels: see `EfficientViM`; pretrained weights for RGB are adapted to others.
        init_cfg: mmengine's initialisation config; default: the network's own random
            initialisation.
        out_stem: see `EfficientViM`.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'm4',
        out_indices: Sequence[int] = (0, 1, 2),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        out_stem: bool = False,
    ) -> None:
        super().__init__(
            arch,
            out_indices,
            frozen_stages,
            norm_eval,
            with_cp,
            drop_path_rate,
            in_channels,
            out_stem,
        )
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Initialise from `init_cfg`; mmengine's Runner calls this once before training.

        Raises:
            UserError: pretrained weights are requested and do not fit or are not available.
        """
        steps = self.init_cfg or []
        steps = [steps] if isinstance(steps, Mapping) else steps
        pretrained = [step for step in steps if step['type'] == 'Pretrained']
        self.init_cfg = [step for step in steps if step['type'] != 'Pretrained']
        super().init_weights()
        self.init_cfg = steps
        for step in pretrained:
            self.load_report = load_backbone(
                self, step['checkpoint'], step.get('prefix', ''), step.get('ema')
            )
            print_log(f'backbone: {self.load_report} from {step["checkpoint"]}', logger='current')
