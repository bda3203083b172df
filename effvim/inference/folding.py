"""A detector or segmentor with nothing left to fold, for inference."""

from __future__ import annotations

import copy

from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import nn

from backbone import EfficientViM


def fuse(model: nn.Module) -> nn.Module:
    """Fold the backbone, then BN of the other parts into the convolutions before; in place.

    Outputs stay equal; the model cannot be trained any more. Returns `model`.
    """
    for module in list(model.modules()):
        if isinstance(module, EfficientViM):
            module.fuse()
    seen = set()
    for module in model.modules():  # RTMDet has one convolution under the BNs of all levels
        if isinstance(module, ConvModule):
            if module.conv in seen:
                module.conv = copy.deepcopy(module.conv)
            seen.add(module.conv)
    return fuse_conv_bn(model.eval())
