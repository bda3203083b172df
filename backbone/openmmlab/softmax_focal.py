"""The softmax focal loss for the stand-in in ops.py, in mmcv's calling convention."""

from __future__ import annotations

import torch
from torch import Tensor

from backbone.openmmlab.numerics import wide


def _parts(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Label (0 where there is none), its probability p, and alpha * weight (0 where none), (N,)."""
    labels = target.clamp(min=0)
    p = input.to(wide(input)).gather(1, labels[:, None])[:, 0]
    scale = (target >= 0).to(p) * alpha
    if weight.numel():
        scale = scale * weight.to(p)[labels]
    return labels, p, scale


def _log(p: Tensor) -> Tensor:
    # at most 87.3 for a probability of 0, as mmcv's
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of the label's probability, Eq. (5) of arXiv:1708.02002; into `output`.

    Args:
        input: (N, C) probabilities that sum to 1, any floating type; N may be 0. mmcv has taken
            the softmax.
        target: (N,) int64 labels, 0 to C - 1; rows with negative ones have no loss.
        weight: (C,) one factor per label, or empty.
        output: (N,), overwritten.
        gamma: focusing exponent, >= 0.
        alpha: weight of every label.

    Raises:
        RuntimeError: on the CPU, with a label of C or more.
    """
    _, p, scale = _parts(input, target, weight, alpha)
    output.copy_(-scale * (1 - p).pow(gamma) * _log(p))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of the summed loss with respect to the logits, into `grad_input` (N, C).

    `buff` (N,) receives p dL/dp; the others as in `softmax_focal_loss_forward`.
    """
    labels, p, scale = _parts(input, target, weight, alpha)
    # p d/dp of -(1 - p)^gamma log(p) is (1 - p)^gamma (gamma p log(p) / (1 - p) - 1), and
    # log(p) / (1 - p) goes to -1 for p = 1, where the compiled operator's is 0 / 0 for gamma < 1
    ratio = torch.where(p < 1, _log(p) / (1 - p), -1)
    slope = scale * (1 - p).pow(gamma) * (gamma * p * ratio - 1)
    buff.copy_(slope)
    # d log(p of the label) / d logit c = (1 if c is the label else 0) - p of c
    classes = torch.arange(input.shape[1], device=input.device)
    is_label = (labels[:, None] == classes).to(p)
    grad_input.copy_(slope[:, None] * (is_label - input.to(p)))


OPERATORS = (softmax_focal_loss_forward, softmax_focal_loss_backward)
