"""A detector or segmentor with nothing left to fold, for inference."""

from __future__ import annotations

from mmcv.cnn import fuse_conv_bn
from torch import nn

from backbone import EfficientViM


def fuse(model: nn.Module) -> nn.Module:
    """Fold the backbone, then BN of the other parts into the convolutions before; in place.

    Outputs stay equal; the model cannot be trained any more. Returns `model`.
    """
    for module in list(model.modules()):
        if isinstance(module, EfficientViM):
            module.fuse()
    return fuse_conv_bn(model.eval())
