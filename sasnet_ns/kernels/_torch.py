"""The kernels in plain torch: the definition that every other backend is tested against.

Differentiable to any order by autograd, traceable by torch.compile and torch.export, any device and floating dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sasnet_ns.kernels.layout import PRIMES, HashGridLayout


def lattice_rows(corner: Tensor, level: int, layout: HashGridLayout) -> Tensor:
    """Table rows of integer lattice points ``corner`` (..., in_dim) of one level -> (...)."""
    resolution = layout.resolutions[level]
    if layout.dense[level]:
        row = corner[..., layout.in_dim - 1]
        for axis in range(layout.in_dim - 2, -1, -1):
            row = row * resolution + corner[..., axis]
    else:
        row = corner[..., 0]
        for axis in range(1, layout.in_dim):
            row = row ^ (corner[..., axis] * PRIMES[axis])
        row = row & (layout.table_size - 1)
    return row + layout.offsets[level]


def hash_grid(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Interpolated features of points ``x`` (N, in_dim) -> (N, levels * feature_dim).

    With ``table`` (K, entries, feature_dim), of K networks: ``x`` is (K, N, in_dim).
    """
    # not x.clamp: whether its gradient lives on the bounds differs between torch versions; here the faces are inside
    clamped = torch.where(x.abs() <= 1.0, x, x.detach().clamp(-1.0, 1.0))
    corner_bits = torch.tensor(
        [[(corner >> axis) & 1 for axis in range(layout.in_dim)] for corner in range(1 << layout.in_dim)],
        device=x.device,
    )
    first = None
    if table.ndim == 3:  # network k has its entries behind those of the others
        first = torch.arange(table.shape[0], device=x.device)[:, None, None] * table.shape[1]
        table = table.flatten(0, 1)
    features = []
    for level, resolution in enumerate(layout.resolutions):
        scale = resolution - 1
        cell = ((clamped.detach() + 1.0) * 0.5 * scale).floor().clamp(max=resolution - 2)
        fraction = clamped * (0.5 * scale) + (0.5 * scale - cell)
        if layout.interpolation == "smoothstep":
            fraction = fraction * fraction * (3.0 - 2.0 * fraction)
        # NaN is in no cell: it takes the first one, and stays NaN in the fraction
        rows = lattice_rows(cell.nan_to_num(0.0).long()[..., None, :] + corner_bits, level, layout)
        rows = rows if first is None else rows + first
        fraction = fraction[..., None, :]
        per_axis = torch.where(corner_bits.bool(), fraction, 1.0 - fraction)
        weights = per_axis[..., 0]
        for axis in range(1, layout.in_dim):
            weights = weights * per_axis[..., axis]
        features.append((table[rows] * weights[..., None]).sum(dim=-2))
    return torch.cat(features, dim=-1)


def spread_mask(mask: Tensor, group_sizes: Sequence[int], width: int) -> Tensor:
    """Group masks (N, groups) repeated over their neurons -> (N, width); neurons before the first group get 1."""
    sizes = list(group_sizes)
    free = width - sum(sizes)
    spread = torch.cat([mask[:, i : i + 1].expand(-1, size) for i, size in enumerate(sizes)], dim=-1)
    if free == 0:
        return spread
    return torch.cat([torch.ones_like(spread[:, :1]).expand(-1, free), spread], dim=-1)


def masked_sine(z: Tensor, bias: Tensor, omega: float, mask: Tensor | None, group_sizes: Sequence[int]) -> Tensor:
    """``spread_mask(mask) * sin(omega * (z + bias))`` for ``z`` (N, width), or with K networks in front."""
    activation = torch.sin(omega * (z + (bias if bias.ndim == 1 else bias[:, None])))
    if mask is None:
        return activation
    free = z.shape[-1] - sum(group_sizes)
    parts = [activation[..., :free]] if free else []
    start = free
    for index, size in enumerate(group_sizes):
        parts.append(activation[..., start : start + size] * mask[..., index : index + 1])
        start += size
    return torch.cat(parts, dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x weight^T + bias`` for ``x`` (N, in), or with K networks in front of everything."""
    if weight.ndim == 3:
        return torch.baddbmm(bias[:, None], x, weight.mT)
    return torch.nn.functional.linear(x, weight, bias)


def mask_decoder(features: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """``sigmoid(relu(features w1^T + b1) w2^T + b2)`` for ``features`` (N, in), or with K networks in front."""
    return torch.sigmoid(linear(torch.relu(linear(features, w1, b1)), w2, b2))
