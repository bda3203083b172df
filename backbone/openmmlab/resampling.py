"""CARAFE, masked convolution's columns, PSANet's masks and RoI pooling at moved bins.

For the stand-in in ops.py, in mmcv's calling convention: results are written into the tensors
passed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.openmmlab.numerics import gradients, wide

# --- CARAFE


def _arrange(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> tuple[Tensor, Tensor]:
    """Bring features and weights into an order for matrix products per cell.

    Returns:
        features: (B, G, H + K - 1, W + K - 1, C / G), zeros around the map.
        weights: (B, G, H, W, s², K, K), for the s² places of each cell in the finer map.
    """
    dtype, margin = wide(features, masks), kernel_size // 2
    padded = F.pad(features.to(dtype), [margin] * 4).unflatten(1, (group_size, -1))
    weights = masks.to(dtype).unflatten(1, (group_size, kernel_size, kernel_size))
    weights = weights.unflatten(5, (-1, scale_factor)).unflatten(4, (-1, scale_factor))
    # B G C/G Y X → B G Y X C/G, B G K K H s W s → B G H W s² K K
    return padded.permute(0, 1, 3, 4, 2), weights.permute(0, 1, 4, 6, 5, 7, 2, 3).flatten(4, 5)


def _neighbours(padded: Tensor, row: int, kernel_size: int) -> Tensor:
    """Each cell's K neighbours in one row of the kernel, a view of shape (B, G, H, W, C / G, K)."""
    height = padded.shape[2] - kernel_size + 1
    return padded[:, :, row : row + height].unfold(3, kernel_size, 1)


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Content-aware reassembly of features, arXiv:1905.02188: upsampling with given weights.

    Each place of the finer map is the weighted sum of the K × K cells around its cell; cells
    outside of the map are 0.

    Args:
        features: (B, C, H, W), any floating type and memory format.
        masks: (B, G · K², s · H, s · W), the weights, group by group, row by row.
        output: (B, C, s · H, s · W), overwritten.
        kernel_size: K, odd. group_size: G, divides C. scale_factor: s, an integer.
    """
    padded, weights = _arrange(features, masks, kernel_size, group_size, scale_factor)
    total = padded.new_zeros(*weights.shape[:5], padded.shape[4])  # B G H W s² C/G
    for row in range(kernel_size):  # all at once take K times as much memory
        total += weights[..., row, :] @ _neighbours(padded, row, kernel_size).mT
    total = total.unflatten(4, (scale_factor, scale_factor))
    # B G H W s s C/G → B G C/G H s W s
    output.copy_(total.permute(0, 1, 6, 2, 4, 3, 5).reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Gradients of `carafe_naive_forward`, into `bottom_grad` (of `features`) and `mask_grad`."""
    padded, weights = _arrange(features, masks, kernel_size, group_size, scale_factor)
    height, width = weights.shape[2:4]
    grad = top_grad.to(padded.dtype).unflatten(1, (group_size, -1))
    grad = grad.unflatten(4, (-1, scale_factor)).unflatten(3, (-1, scale_factor))
    # B G C/G H s W s → B G H W s² C/G
    grad = grad.permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5)
    padded_grad, weights_grad = torch.zeros_like(padded), torch.empty_like(weights)
    for row in range(kernel_size):
        weights_grad[..., row, :] = grad @ _neighbours(padded, row, kernel_size)
        per_neighbour = weights[..., row, :].mT @ grad  # B G H W K C/G
        for column in range(kernel_size):
            seen = padded_grad[:, :, row : row + height, column : column + width]
            seen += per_neighbour[..., column, :]
    margin = kernel_size // 2
    inner = padded_grad[:, :, margin : margin + height, margin : margin + width]
    bottom_grad.copy_(inner.permute(0, 1, 4, 2, 3).flatten(1, 2))
    weights_grad = weights_grad.unflatten(4, (scale_factor, scale_factor))
    # B G H W s s K K → B G K K H s W s
    mask_grad.copy_(weights_grad.permute(0, 1, 6, 7, 2, 4, 3, 5).reshape(mask_grad.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; `rfeatures` receives what `carafe_backward` is passed.

    That is `features`; routput and rmasks, the compiled operator's rearranged copies, are unused.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_backward`; rtop_grad, rbottom_… and rmask_grad are unused."""
    carafe_naive_backward(
        top_grad,
        rfeatures,
        masks,
        bottom_grad,
        mask_grad,
        kernel_size,
        group_size,
        scale_factor,
    )


# --- masked convolution


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Read what a convolution of stride 1 sees at M of its places, arXiv:1901.03278.

    Args:
        im: (1, C, H, W), any type.
        mask_h_idx, mask_w_idx: (M,) int64 row and column of the places, 0 to H - 1 and W - 1.
        col: (C · kernel_h · kernel_w, M), overwritten; zeros outside of the map.
        kernel_h, kernel_w, pad_h, pad_w: size of the kernel and zero padding, in cells.
    """
    after_h, after_w = (max(k - 1 - p, 0) for k, p in ((kernel_h, pad_h), (kernel_w, pad_w)))
    padded = F.pad(im[0], (pad_w, after_w, pad_h, after_h))
    rows = mask_h_idx[:, None] + torch.arange(kernel_h, device=im.device)  # M kh
    columns = mask_w_idx[:, None] + torch.arange(kernel_w, device=im.device)  # M kw
    seen = padded[:, rows[:, :, None], columns[:, None]]  # C M kh kw
    col.copy_(seen.permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write a masked convolution's result to its M places; the others are left as they are.

    Args:
        col: (channels, M), any type.
        mask_h_idx, mask_w_idx: (M,) int64 row and column of the places.
        im: (1, channels, height, width), written to.

    Raises:
        IndexError: on the CPU, if a place is not on the map: the convolution made it smaller. The
            compiled operator writes to other places or past the end.
    """
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im.dtype)


# --- PSANet's masks


def _take(x: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Rearrange at each place (h, w) the channels, which are a grid of height × width.

    Args:
        x: (B, height · width, H, W).
        rows, columns: (A, H) and (D, W): which row and column of the grid to take at each place.

    Returns:
        (B, A · D, H, W), zeros where row or column are outside of the grid.
    """
    row, column = rows[:, None, :, None], columns[None, :, None, :]  # A 1 H 1, 1 D 1 W
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    channel = torch.where(inside, row * width + column, height * width).flatten(0, 1)
    with_zeros = F.pad(x, (0, 0, 0, 0, 0, 1))
    return with_zeros.gather(1, channel.expand(len(x), -1, -1, -1))


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread the attention around each place over the whole map, PSANet (ECCV 2018).

    Args:
        input: (B, h_mask · w_mask, H, W), any type: at each place the attention between it and the
            places around it, row by row; itself at row half_h_mask and column half_w_mask.
        output: (B, H · W, H, W), overwritten; zeros where the mask does not reach. With psa_type 0,
            collect, channel j at place i receives what the input has at place i for place j; with
            1, distribute, channel i at place j receives it.
        num_, h_feature, w_feature: B, H, W.
    """
    h, w = (torch.arange(n, device=input.device) for n in (h_feature, w_feature))
    rows, columns = h[:, None] - h + half_h_mask, w[:, None] - w + half_w_mask
    spread = _take(input, rows, columns, h_mask, w_mask)
    if psa_type == 1:
        spread = spread.flatten(2).transpose(1, 2).reshape(output.shape)
    output.copy_(spread)


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Gradient of `psamask_forward` with respect to `input`, into `grad_input`."""
    if psa_type == 1:
        grad_output = grad_output.flatten(2).transpose(1, 2).reshape(grad_output.shape)
    # no value was used twice: at row h, row i of the mask was that of row i + h - half
    i, j, h, w = (
        torch.arange(n, device=grad_output.device) for n in (h_mask, w_mask, h_feature, w_feature)
    )
    rows, columns = i[:, None] + h - half_h_mask, j[:, None] + w - half_w_mask
    grad_input.copy_(_take(grad_output, rows, columns, h_feature, w_feature))


# --- RoIs


def _sum_of_samples(table: Tensor, image: Tensor, y: Tensor, x: Tensor, size: torch.Size) -> Tensor:
    """Sum bilinear samples per bin; a sample beyond -1 or the map's size is 0.

    Args:
        table: (B · H · W, C). size: B, C, H, W.
        image: (N,) int64 number in the batch.
        y, x: (N, bins, samples), in cells from the centre of the first.

    Returns:
        (N, bins, C)
    """
    height, width = size[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)  # False for NaN
    cells, weights = [], []
    corners = []
    for place, count in ((y, height), (x, width)):
        place = torch.where(inside, place, 0).clamp(0, count - 1)
        low = place.detach().floor()
        part = place - low
        low = low.long()
        corners.append(((low, 1 - part), ((low + 1).clamp(max=count - 1), part)))
    for (row, row_weight), (column, column_weight) in itertools.product(*corners):
        cells.append((image[:, None, None] * height + row) * width + column)
        weights.append(torch.where(inside, row_weight * column_weight, 0))
    sums = F.embedding_bag(
        torch.cat(cells, 2).flatten(0, 1),
        table,
        mode='sum',
        per_sample_weights=torch.cat(weights, 2).flatten(0, 1),
    )
    return sums.unflatten(0, y.shape[:2])


def pool_rois(
    input: Tensor,
    image: Tensor,
    sizes: Tensor,
    output_size: tuple[int, int],
    sampling_ratio: int,
    locate: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]],
) -> Tensor:
    """Average bilinear samples in the bins of RoIs of any form, RoIAlign of arXiv:1703.06870.

    Args:
        input: (B, C, H, W).
        image: (N,) int64 number of each RoI's image in the batch.
        sizes: (N, 2) height and width of each RoI, in cells, in the type of `input`.
        output_size: bins per column and row, (P, Q).
        sampling_ratio: samples per bin and axis; 0 for as many as the bin has cells.
        locate: for RoIs n (K,) and fractions of their height (P, h, 1, 1) and width (Q, w), of h
            and w samples per bin: y and x in cells, each of shape (K, P, h, Q, w) or one that is
            expanded to that. Differentiable if a gradient is wanted.

    Returns:
        (N, C, P, Q); zeros for a RoI without samples.
    """
    table = input.permute(0, 2, 3, 1).flatten(0, 2)
    bins = torch.tensor(output_size, device=sizes.device)
    if sampling_ratio > 0:
        grids = torch.full_like(sizes, sampling_ratio, dtype=torch.int64)
    else:
        grids = (sizes / bins).ceil().clamp(min=0).long()
    pooled, order = [table.new_zeros(0, *output_size, input.shape[1])], []
    # RoIs with the same number of samples at once
    for grid in torch.unique(grids, dim=0):
        (numbers,) = (grids == grid).all(1).nonzero(as_tuple=True)
        order.append(numbers)
        samples = int(grid.prod())
        if samples == 0:
            pooled.append(table.new_zeros(len(numbers), *output_size, input.shape[1]))
            continue
        down, across = (
            (torch.arange(p * n, dtype=sizes.dtype, device=sizes.device) + 0.5).view(p, n) / (p * n)
            for p, n in zip(output_size, grid.tolist())
        )
        places = torch.broadcast_tensors(*locate(numbers, down[:, :, None, None], across))
        # K P h Q w → K PQ hw
        y, x = (t.transpose(2, 3).flatten(3).flatten(1, 2) for t in places)
        mean = _sum_of_samples(table, image[numbers], y, x, input.shape) / samples
        pooled.append(mean.unflatten(1, output_size))
    result = torch.cat(pooled)
    if order:
        result = result[torch.cat(order).argsort()]
    return result.permute(0, 3, 1, 2)


def _deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    dtype = wide(input, rois, offset)
    image, corners = rois[:, 0].long(), rois[:, 1:].to(dtype) * spatial_scale - 0.5
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]  # x, y

    def locate(numbers: Tensor, down: Tensor, across: Tensor) -> list[Tensor]:
        places = []
        for axis, fraction in ((1, down), (0, across)):
            begin, length = (t[numbers, axis].view(-1, 1, 1, 1, 1) for t in (start, size))
            if offset.numel():
                moved = offset[numbers, axis].to(dtype)  # K P Q
                begin = begin + gamma * length * moved[:, :, None, :, None]
            places.append(begin + fraction * length)
        return places

    return pool_rois(input.to(dtype), image, size.flip(1), output_size, sampling_ratio, locate)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Deformable RoI pooling, Sec. 2.2 of arXiv:1703.06211, on RoIAlign's samples; into `output`.

    Args:
        input: (B, C, H, W), any floating type and memory format.
        rois: (N, 5) image index, x1, y1, x2, y2, in a type of its own; N may be 0.
        offset: (N, 2, pooled_height, pooled_width), how far each bin moves, x before y, in units of
            `gamma` times the RoI's size; or empty.
        output: (N, C, pooled_height, pooled_width), overwritten.
        spatial_scale: cells of `input` per unit of `rois`.
        sampling_ratio: samples per bin and axis, 0 for as many as the bin has cells.
    """
    size = (pooled_height, pooled_width)
    output.copy_(_deform_roi_pool(input, rois, offset, size, spatial_scale, sampling_ratio, gamma))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Gradients of `deform_roi_pool_forward`, into `grad_input` and `grad_offset`.

    Up to a cell outside of the map's first and last cell, samples are those of the border: the
    gradient with respect to the offset is that of these. The compiled operator's is another there.
    """
    size = (pooled_height, pooled_width)
    found = gradients(
        lambda x, o: _deform_roi_pool(x, rois, o, size, spatial_scale, sampling_ratio, gamma),
        (input, offset),
        grad_output,
    )
    grad_input.copy_(found[0])
    grad_offset.copy_(found[1])


OPERATORS = (
    carafe_naive_forward,
    carafe_naive_backward,
    carafe_forward,
    carafe_backward,
    masked_im2col_forward,
    masked_col2im_forward,
    psamask_forward,
    psamask_backward,
    deform_roi_pool_forward,
    deform_roi_pool_backward,
)
