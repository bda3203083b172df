"""EfficientViM (arXiv 2411.15241), top to bottom: HSM-SSD, block, stage, network.

B batch, C channels, L = H·W positions, N hidden states. Where the paper gives a formula its name
stands next to the line that computes it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.fx
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import UserError
from .layers import (
    FFN,
    Depthwise,
    Downsample,
    KeepStatistics,
    LayerNorm2d,
    Pointwise1d,
    Stem,
    fixed,
    freeze,
)

# Paper, table of variants: width, number of blocks and hidden states of the three stages.
ARCHS: dict[str, dict[str, tuple[int, ...]]] = {
    'm1': dict(widths=(128, 192, 320), depths=(2, 2, 2), state_dims=(49, 25, 9)),
    'm2': dict(widths=(128, 256, 512), depths=(2, 2, 2), state_dims=(49, 25, 9)),
    'm3': dict(widths=(224, 320, 512), depths=(2, 2, 2), state_dims=(49, 25, 9)),
    'm4': dict(widths=(224, 320, 512), depths=(3, 4, 2), state_dims=(64, 32, 16)),
}


class FeatureInfo(NamedTuple):
    """One output map: its channels, and the input pixels per output position."""

    channels: int
    stride: int


def resolve_arch(arch: str | Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the widths, depths and state sizes of a name of `ARCHS` or a mapping of the same keys.

    Raises:
        UserError: the name or a key is unknown, a key is missing, or lengths differ.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise UserError(
                f'unknown arch {arch!r}: pass one of {", ".join(ARCHS)}, or a dict of '
                f'widths, depths and state_dims'
            )
        return ARCHS[arch]
    keys = set(ARCHS['m1'])
    if not isinstance(arch, Mapping):
        raise UserError(f'arch must be one of {", ".join(ARCHS)} or a dict, got {arch!r}')
    if set(arch) != keys:
        raise UserError(f'arch as a dict needs exactly the keys {sorted(keys)}, got {sorted(arch)}')
    resolved = {key: tuple(int(v) for v in values) for key, values in arch.items()}
    lengths = {len(values) for values in resolved.values()}
    if len(lengths) != 1 or 0 in lengths or min(min(v) for v in resolved.values()) < 1:
        raise UserError(f'arch needs as many positive widths as depths and state_dims, got {arch}')
    if resolved['widths'][0] % 8:
        raise UserError(f'the first width of arch must be a multiple of 8, got {arch}')
    return resolved


def feature_info(
    arch: str | Mapping[str, Sequence[int]] = 'm4',
    out_indices: Sequence[int] = (0, 1, 2),
    out_stem: bool = False,
) -> tuple[FeatureInfo, ...]:
    """Return channels and strides of the maps that an `EfficientViM` of these arguments returns.

    Raises:
        UserError: `arch` is unknown, `out_indices` is not ascending, empty or out of range, or
            `out_stem` is no bool.
    """
    widths = resolve_arch(arch)['widths']
    if isinstance(out_indices, (int, str)) or not all(isinstance(i, int) for i in out_indices):
        raise UserError(f'out_indices must be a sequence of stage numbers, got {out_indices!r}')
    ascending = list(out_indices) == sorted(set(out_indices))
    if not out_indices or not ascending or not 0 <= out_indices[0] <= out_indices[-1] < len(widths):
        raise UserError(
            f'out_indices must be ascending stage numbers from 0 to {len(widths) - 1}, '
            f'at least one; got {tuple(out_indices)}'
        )
    if not isinstance(out_stem, bool):
        raise UserError(f'out_stem must be True or False, got {out_stem!r}')
    stem = (FeatureInfo(widths[0] // 2, 8),) if out_stem else ()
    return stem + tuple(FeatureInfo(widths[i], 16 * 2**i) for i in out_indices)


class HSMSSD(nn.Module):
    """Hidden State Mixer based State Space Duality (paper, section 4.1).

    L positions are compressed into N hidden states, channels are mixed among the N states instead
    of among the L positions, O(N·C²) instead of O(L·C²), and the states are read out again.

    The layer stands on its own; it adds nothing around itself (no norm, no residual):

    Examples:
        >>> mixer = HSMSSD(dim=64, state_dim=16)
        >>> y, h = mixer(torch.randn(2, 64, 30, 45))
        >>> y.shape, h.shape
        (torch.Size([2, 64, 30, 45]), torch.Size([2, 64, 16]))

    Args:
        dim: channels C of the input and the output.
        state_dim: number N of hidden states.
        expand: width of the mixer inside the states, in multiples of `dim`.
    """

    def __init__(self, dim: int, state_dim: int, expand: float = 1) -> None:
        super().__init__()
        inner = int(expand * dim)
        if inner < 1 or state_dim < 1:
            raise UserError(
                f'HSMSSD needs state_dim ≥ 1 and expand·dim ≥ 1, got state_dim='
                f'{state_dim}, expand={expand}, dim={dim}'
            )
        self.BCdt_proj = Pointwise1d(dim, 3 * state_dim)
        depthwise = nn.Conv2d(
            3 * state_dim, 3 * state_dim, 3, padding=1, groups=3 * state_dim, bias=False
        )
        self.dw = nn.Sequential(OrderedDict(conv=depthwise))  # named as in published checkpoints
        self.hz_proj = Pointwise1d(dim, 2 * inner)
        self.out_proj = Pointwise1d(inner, dim)
        self.act = nn.SiLU()
        self.D = nn.Parameter(torch.ones(1))
        # â is constant along the axis of the softmax in `forward` and cancels there. It is kept
        # for the published checkpoints and never trained.
        self.A = nn.Parameter(torch.empty(state_dim).uniform_(1, 16), requires_grad=False)

    def selection(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of `x`, B H W C, the A ⊙ B̂ that takes positions into states, and C; each B L N."""
        projected = self.dw(self.BCdt_proj(x).permute(0, 3, 1, 2))  # B 3·N H W
        b, c, dt = projected.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=-1)  # each B L N
        # A = softmax_L(Δ + â)
        return dt.softmax(1) * b, c

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of `x`, B C H W, mixed, B N C, and the C that reads them out, B L N."""
        x = x.permute(0, 2, 3, 1)  # B H W C
        taken, c = self.selection(x)
        # h_in = x (A ⊙ B̂)ᵀ
        h = taken.mT @ x.flatten(1, 2)  # B N C
        # the hidden-state mixer: h = W_out (h ⊙ σ(z) + D h)
        h, z = self.hz_proj(h).chunk(2, dim=-1)  # each B N expand·C
        return self.out_proj(h * (self.act(z) + self.D)), c

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mix `x`, B C H W, normalised; returns the map, B C H W, and the states, B C N."""
        h, c = self.states(x)
        # y = h C
        return (c @ h).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), h.mT


def read_out(x: Tensor, h: Tensor, c: Tensor, gate: Tensor, keep: Tensor) -> Tensor:
    """keep · x + gate · y, where y = h C, as one product on scaled states and one sum.

    Shape: x B C H W, h B N C, c B L N, gate and keep C → B C H W.
    """
    x = x.permute(0, 2, 3, 1)  # B H W C
    y = (c @ (gate * h)).to(x.dtype)  # B L C; autocast keeps x in float32
    y = y.addcmul_(keep, x.flatten(1, 2))  # torch.fx drops results that nothing uses
    return y.view(x.shape).permute(0, 3, 1, 2)


class EfficientViMBlock(nn.Module):
    """Depthwise convolution, HSM-SSD, depthwise convolution, FFN (paper, section 4.3).

    Each branch f blends with the gate a = sigmoid(alpha): x ← (1 − a)·x + a·f(x).

    Shape: B C H W → (B C H W, hidden states B C N).
    """

    def __init__(self, dim: int, state_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dwconv1 = Depthwise(dim)
        self.norm = LayerNorm2d(dim, eps=1e-5)
        self.mixer = HSMSSD(dim, state_dim)
        self.dwconv2 = Depthwise(dim)
        self.ffn = FFN(dim, 4 * dim)
        self.alpha = nn.Parameter(torch.full((4, dim), 1e-4))
        self.drop_path = DropPath(drop_path)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """From `x` to `y`; with stochastic depth some samples stay at `x`."""
        if self.drop_path.drop_prob and self.training:
            return x + self.drop_path(y - x)
        return y

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.alpha.sigmoid()  # 4 C
        x = self.step(x, self.dwconv1(x, gate[0]))
        h, c = self.mixer.states(self.norm(x))
        x = self.step(x, read_out(x, h, c, gate[1], 1 - gate[1]))
        x = self.step(x, self.dwconv2(x, gate[2]))
        x = self.step(x, self.ffn(x, gate[3]))
        return x, h.mT


class FusedBlock(nn.Module):
    """`block` for inference, with folded kernels; shares the block's norm and mixer.

    Shape: as `EfficientViMBlock`.
    """

    def __init__(self, block: EfficientViMBlock) -> None:
        super().__init__()
        gate = block.alpha.sigmoid()  # 4 C
        self.dwconv1 = block.dwconv1.fuse(gate[0])
        self.norm, self.mixer = block.norm, block.mixer
        self.gate, self.keep = fixed(gate[1]), fixed(1 - gate[1])
        self.dwconv2 = block.dwconv2.fuse(gate[2])
        self.ffn = block.ffn.fuse(gate[3])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dwconv1(x)
        h, c = self.mixer.states(self.norm(x))
        x = self.dwconv2(read_out(x, h, c, self.gate, self.keep))
        return self.ffn(x), h.mT


def recomputed(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `block(x)`; its activations are not kept but recomputed in the backward pass."""

    def contexts() -> tuple[contextlib.nullcontext, KeepStatistics]:
        return contextlib.nullcontext(), KeepStatistics(block)

    if torch.compiler.is_compiling():  # a compiled backward pass recomputes no statistics
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


class EfficientViMStage(nn.Module):
    """Blocks at one resolution, then, except in the last stage, the downsampling.

    Shape: B C H W → (the blocks' map, B C H W; the next stage's input, B D ⌈H/2⌉ ⌈W/2⌉, or the
    same map where there is no downsampling; the last block's states, B C N).
    """

    def __init__(
        self,
        dim: int,
        state_dim: int,
        drop_paths: Sequence[float],
        out_dim: int | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.blocks: Any = nn.ModuleList(EfficientViMBlock(dim, state_dim, p) for p in drop_paths)
        self.downsample: nn.Module = Downsample(dim, out_dim) if out_dim else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for block in self.blocks:
            x, h = recomputed(block, x) if self.with_cp else block(x)
        return x, self.downsample(x), h

    def fuse(self) -> FusedStage:
        """Return the equivalent for inference, with folded kernels."""
        down = self.downsample
        return FusedStage(
            [FusedBlock(block) for block in self.blocks],
            down.fuse() if isinstance(down, Downsample) else down,
        )


class FusedStage(nn.Module):
    """`EfficientViMStage` with folded kernels; shapes as there."""

    def __init__(self, blocks: Sequence[FusedBlock], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = x
        for block in self.blocks:
            x, h = block(x)
        return x, self.downsample(x), h


@torch.fx.wrap
def as_input(x: Tensor) -> Tensor:
    """Images in the memory format that is fastest on their device. Shape: B C H W.

    Raises:
        UserError: there are no images, or no pixels in them.
    """
    if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        if 0 in x.shape:
            raise UserError(
                f'a batch needs at least one image of one pixel, got shape {tuple(x.shape)}'
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(x):  # vmap knows no memory formats
            return x
    if x.device.type == 'cpu':
        return x.contiguous(memory_format=torch.channels_last)  # all that follows keeps it
    return x


class EfficientViM(nn.Module):
    """EfficientViM as a feature pyramid: images in, the maps of chosen stages out.

    Examples:
        >>> maps = EfficientViM(arch='m4')(torch.randn(1, 3, 224, 320))
        >>> [tuple(m.shape) for m in maps]
        [(1, 224, 14, 20), (1, 320, 7, 10), (1, 512, 4, 5)]

    A stage's map is taken before its downsampling. Whatever follows the last chosen stage is not
    built: its parameters would get no gradient.

    Args:
        arch: 'm1' to 'm4', or a dict of `widths`, `depths`, `state_dims`.
        out_indices: ascending numbers of the stages whose maps are returned.
        frozen_stages: −1 freezes nothing, 0 the stem, k the stem and the first k stages with their
            downsampling; parameters and BN statistics, also after `train()`.
        norm_eval: BN layers always normalise with their stored statistics, also after `train()`;
            their weights are trained.
        with_cp: gradient checkpointing; a block's activations are recomputed in the backward pass.
        drop_path_rate: stochastic depth, 0 ≤ rate < 1, growing linearly over all blocks.
        in_channels: channels of the input image.
        out_stem: also return, before the maps of the stages, the stem's map of stride 8, of half
            the first width; the paper's detectors do not use it.

    Attributes:
        arch: as given.
        feature_info: a `FeatureInfo` (channels, stride) for each output map.

    Raises:
        UserError: an argument is out of range.
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
        out_stem: bool = False,
    ) -> None:
        super().__init__()
        self.arch, self.feature_info = arch, feature_info(arch, out_indices, out_stem)
        widths, depths, state_dims = (
            resolve_arch(arch)[key] for key in ('widths', 'depths', 'state_dims')
        )
        if not -1 <= frozen_stages <= len(widths):
            raise UserError(
                f'frozen_stages must be from -1 (nothing) to {len(widths)} (all '
                f'stages), got {frozen_stages}'
            )
        if not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate must be at least 0 and below 1, got {drop_path_rate}')
        if not isinstance(in_channels, int) or in_channels < 1:
            raise UserError(
                f"in_channels is the images' number of channels, an integer; got {in_channels!r}"
            )
        self.out_indices, self.out_stem = tuple(out_indices), out_stem
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.fused = False

        self.patch_embed: Any = Stem(in_channels, widths[0])
        blocks = max(1, sum(depths) - 1)
        rates = iter([drop_path_rate * i / blocks for i in range(sum(depths))])
        last = self.out_indices[-1]
        self.stages: Any = nn.ModuleList(
            EfficientViMStage(
                widths[i],
                state_dims[i],
                list(islice(rates, depths[i])),
                out_dim=widths[i + 1] if i < last else None,
                with_cp=with_cp,
            )
            for i in range(last + 1)
        )
        self.train()

    def train(self, mode: bool = True) -> EfficientViM:
        """As `nn.Module.train`, but what is frozen stays in evaluation mode.

        Raises:
            UserError: training mode is requested and the network is folded.
        """
        if mode and self.fused:
            raise UserError(
                'a folded network cannot be trained, its parameters are gone: build it '
                'again and load the checkpoint'
            )
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for module in [self.patch_embed, *self.stages][: self.frozen_stages + 1]:
            freeze(module)
        return self

    @torch.no_grad()
    def fuse(self) -> EfficientViM:
        """Fold all BN layers and gates into convolutions, in place, for inference; returns self.

        Outputs stay the same, parameters and their names do not: load weights before folding,
        change the precision after it, and do not train afterwards.
        """
        if not self.fused:
            self.eval()
            self.patch_embed = self.patch_embed.fuse()
            self.stages = nn.ModuleList(stage.fuse() for stage in self.stages)
            self.fused = True
            self.requires_grad_(False)
        return self

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles."""
        from .scripting import scriptable

        return scriptable(self)

    def forward_stages(
        self, x: Tensor, count: int | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Every stage's map, B C_i H_i W_i, and its last block's hidden states, B C_i N_i.

        `count`: only of so many stages.
        """
        return self.run_stages(self.patch_embed(as_input(x))[1], count)

    def run_stages(self, x: Tensor, count: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """`forward_stages` from the last map of the stem, B C_0 H_0 W_0."""
        maps, states = [], []
        for stage in islice(self.stages, count):
            stage_map, x, h = stage(x)
            maps.append(stage_map)
            states.append(h)
        return maps, states

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the chosen stages, finest first, with `out_stem` after that of the stem.

        `x`: B 3 H W, normalised images, H and W of at least 32 and otherwise of any size; the map
        of stage i has ⌈H/(16·2^i)⌉ × ⌈W/(16·2^i)⌉ positions, that of the stem ⌈H/8⌉ × ⌈W/8⌉.
        """
        finer, x = self.patch_embed(as_input(x))
        first = (finer,) if self.out_stem else ()
        del finer  # inference need not keep it
        maps, _ = self.run_stages(x)
        return *first, *(maps[i] for i in self.out_indices)
