"""`EffViMSingleRoIExtractor`: RoI features at exact positions in mixed precision."""

from __future__ import annotations

from mmdet.models import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class EffViMSingleRoIExtractor(SingleRoIExtractor):
    """mmdet's `SingleRoIExtractor` in float32, for training in mixed precision.

    mmdet casts the boxes to the maps' type: in bfloat16 a coordinate beyond 1,024 moves by up to
    4 pixels, and features no longer belong to the box or mask that they are trained on.
    """

    def forward(
        self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Return RoI features, K C h w, float32, of maps B C H_i W_i at `rois`, K 5."""
        return super().forward(tuple(x.float() for x in feats), rois, roi_scale_factor)
