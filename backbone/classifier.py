"""The ImageNet classifier of EfficientViM: fusion of the hidden states of all stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .efficientvim import EfficientViM, resolve_arch
from .errors import UserError


def linear_heads(widths: Sequence[int], num_classes: int) -> nn.ModuleList:
    """A linear layer to `num_classes` logits for each width; for 0 classes none."""
    if num_classes == 0:
        return nn.ModuleList(nn.Identity() for _ in widths)
    heads = [nn.Linear(width, num_classes) for width in widths]
    for head in heads:
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return nn.ModuleList(heads)


def fusion(pooled: Sequence[Tensor], heads: nn.ModuleList, weights: Tensor) -> Tensor:
    """z = Σ_i softmax(weights)_i · heads_i(pooled_i). Shape: each B C_i → B K."""
    shares = weights.softmax(0)
    return sum(shares[i] * head(pooled[i]) for i, head in enumerate(heads))


class EfficientViMClassifier(EfficientViM):
    """EfficientViM with multi-stage hidden-state fusion: images in, logits out.

    Every stage's last hidden states and the last map, each normalised over channels and averaged
    over its states or positions, get a linear head each; their logits are added with the softmax
    of learned weights.

    Examples:
        >>> EfficientViMClassifier(arch='m4').eval()(torch.randn(1, 3, 256, 256)).shape
        torch.Size([1, 1000])

    All tensors of an `EfficientViM` have the same names here, so either loads the other's state
    dict with `strict=False`; what is then missing or unexpected is the classifier's own.

    Args:
        arch: see `EfficientViM`; M1 to M3 were published for 224×224 pixels, M4 for 256×256.
        num_classes: number of logits; 0 for a network without heads, see `forward_head`.
        distillation: a second set of weights and heads, trained on a teacher's predictions.
        frozen_stages: see `EfficientViM`; with all stages frozen only the fusion is trained.
        norm_eval: see `EfficientViM`.
        with_cp: see `EfficientViM`.
        drop_path_rate: see `EfficientViM`.
        in_channels: see `EfficientViM`.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]] = 'm4',
        num_classes: int = 1000,
        distillation: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        widths = resolve_arch(arch)['widths']
        super().__init__(
            arch, range(len(widths)), frozen_stages, norm_eval, with_cp, drop_path_rate, in_channels
        )
        self.distillation = distillation
        self.branches = (*widths, widths[-1])  # the states of each stage, then the last map
        self.num_features = sum(self.branches)
        self.norm = nn.ModuleList(nn.LayerNorm(width, eps=1e-5) for width in self.branches)
        self.weights = nn.Parameter(torch.ones(len(self.branches)))
        if distillation:
            self.weights_dist = nn.Parameter(torch.ones(len(self.branches)))
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.ModuleList | tuple[nn.ModuleList, nn.ModuleList]:
        """The linear heads; with distillation both sets."""
        return (self.heads, self.heads_dist) if self.distillation else self.heads

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the heads by new ones, randomly initialised; 0 classes for none.

        Raises:
            UserError: `num_classes` is negative.
        """
        if num_classes < 0:
            raise UserError(f'num_classes must be at least 0, got {num_classes}')
        self.num_classes = num_classes
        self.heads: Any = linear_heads(self.branches, num_classes).to(self.weights)
        self.weights.requires_grad_(num_classes > 0)
        if self.distillation:
            self.heads_dist: Any = linear_heads(self.branches, num_classes).to(self.weights)
            self.weights_dist.requires_grad_(num_classes > 0)

    @torch.no_grad()
    def fuse(self) -> EfficientViMClassifier:
        """As `EfficientViM.fuse`; of two sets of heads their mean remains, as one set."""
        super().fuse()
        if self.distillation:
            shares, shares_dist = self.weights.softmax(0), self.weights_dist.softmax(0)
            for i, (head, other) in enumerate(zip(self.heads, self.heads_dist)):
                for own, second in zip(head.parameters(), other.parameters()):
                    own.copy_((shares[i] * own + shares_dist[i] * second) * len(shares) / 2)
            self.weights.zero_()  # equal shares: the heads have taken in the learned ones
            self.distillation = False
            del self.heads_dist, self.weights_dist
        return self

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """What the heads take, normalised over channels but not averaged.

        The hidden states of each stage, B C_i N_i, then the last map, B C L.
        """
        return self.normalised(*self.forward_stages(x))

    def normalised(self, maps: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """`forward_features` from what `forward_stages` returns."""
        tokens = [*states, maps[-1].flatten(2)]  # each B C_i N_i, the last B C L
        return [norm(t.mT).mT for norm, t in zip(self.norm, tokens)]

    def forward_head(
        self, features: Sequence[Tensor], pre_logits: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of `forward_features`, see `forward`.

        With `pre_logits`, and in a network without heads, the averages that the heads take instead,
        B num_features.
        """
        pooled = [tokens.mean(-1) for tokens in features]  # B C_i
        if pre_logits or self.num_classes == 0:
            return torch.cat(pooled, 1)
        logits = fusion(pooled, self.heads, self.weights)
        if not self.distillation:
            return logits
        logits_dist = fusion(pooled, self.heads_dist, self.weights_dist)
        return (logits, logits_dist) if self.training else (logits + logits_dist) / 2

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits, B K, for images as in `EfficientViM.forward`; without heads B num_features.

        With distillation, in training: those for the labels and those for the teacher; in
        evaluation their mean.
        """
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """Maps of chosen stages, in the calling convention of timm's models.

        Args:
            x: as in `EfficientViM.forward`.
            indices: numbers of the stages, how many of the last ones, or None for all.
            norm: normalise each map with its stage's LayerNorm.
            stop_early: do not run what follows the last chosen stage.
            output_fmt: only 'NCHW'.
            intermediates_only: return the maps alone.

        Returns:
            The maps, a list; unless `intermediates_only`, `forward_features` and the maps.

        Raises:
            UserError: another `output_fmt`, or `stop_early` without `intermediates_only`.
        """
        if output_fmt != 'NCHW':
            raise UserError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        if stop_early and not intermediates_only:
            raise UserError('stop_early needs intermediates_only: the features come last')
        chosen, last = feature_take_indices(len(self.stages), indices)
        maps, states = self.forward_stages(x, last + 1 if stop_early else None)
        taken = [maps[i] for i in chosen]
        if norm:
            taken = [
                self.norm[i](m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
                for i, m in zip(chosen, taken)
            ]
        if intermediates_only:
            return taken
        return self.normalised(maps, states), taken
