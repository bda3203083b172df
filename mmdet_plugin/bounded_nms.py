"""Let non-maximum suppression on a CPU stop once it has the boxes that a head will return.

mmdet's heads suppress all candidates and then keep the first `max_per_img`. With RTMDet's settings
these are up to 30,000 candidates of each level for 300 boxes: early in training that takes longer
than the network. The results are the same, so this applies to all heads that keep the first ones.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from mmdet.models.dense_heads import RPNHead, RTMDetInsHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

from backbone.openmmlab import suppression

METHODS = (
    (BaseDenseHead, '_bbox_post_process'),
    (RPNHead, '_bbox_post_process'),
    (RTMDetInsHead, '_bbox_mask_post_process'),
)


def install() -> None:
    """Replace the methods of mmdet's heads that suppress boxes; a second call does nothing."""
    for head, name in METHODS:
        method = getattr(head, name)
        if not hasattr(method, '__wrapped__'):
            setattr(head, name, bounded(method))


def bounded(method: Any) -> Any:
    """A head's method that suppresses boxes, told how many of them it will keep."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def post_process(*args: Any, **kwargs: Any) -> Any:
        cfg = signature.bind(*args, **kwargs).arguments['cfg']
        limit = cfg.get('max_per_img', 0)
        with suppression.limited_to(limit if limit > 0 else None):
            return method(*args, **kwargs)

    return post_process
