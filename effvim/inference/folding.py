"""Make a whole detector or segmentor faster for inference."""

from __future__ import annotations

import copy

from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import nn

from backbone import EfficientViM


def fuse(model: nn.Module) -> nn.Module:
    """Fold all BN layers into the convolutions before them, in place, and return the model.

    The backbone's gates are folded, too. Outputs stay equal; the model can no longer be trained.
    """
    for module in list(model.modules()):
        if isinstance(module, EfficientViM):
            module.fuse()
    seen = set()
    for module in model.modules():  # RTMDet shares one convolution between the BNs of all levels
        if isinstance(module, ConvModule):
            if module.conv in seen:
                module.conv = copy.deepcopy(module.conv)
            seen.add(module.conv)
    return fuse_conv_bn(model.eval())
