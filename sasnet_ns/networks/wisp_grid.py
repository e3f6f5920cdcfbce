"""The hash grid as the authors' library computes it (kaolin-wisp), with its three quirks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid
from sasnet_ns.kernels.layout import PRIMES


def wisp_grid(
    x: Float[Tensor, "N d"],
    table: Float[Tensor, "entries feature_dim"],
    layout: HashGridLayout,
    implementation: Implementation = "auto",
) -> Float[Tensor, "N features"]:
    """Features of the grid that the authors trained with, which differs from :func:`sasnet_ns.kernels.hash_grid`.

    A point's lattice position on a level of resolution R is ``min(R (x + 1) / 2, R - 1)``: the spacing is 2/R, and
    the last cell of every axis is constant. A level of exactly as many lattice points as the largest table is hashed
    all the same. The finest level is zero, so that its entries never train. (kaolin-wisp 931707e,
    ``hashgrid_interpolate_cuda.cu``, ``hash_utils.cuh`` and ``HashGrid.interpolate``.)

    Args:
        x: points in [-1, 1]^d.
        table: entries of all levels, in our order and theirs.
        layout: resolutions and table size; linear interpolation.
        implementation: kernel backend of each level.
    """
    features = []
    for level, resolution in enumerate(layout.resolutions[:-1]):
        rows = table[layout.offsets[level] : layout.offsets[level + 1]]
        if resolution**layout.in_dim == layout.table_size:
            rows = rows[_hashed_rows(resolution, layout).to(rows.device)]
        position = (resolution * (0.5 * x + 0.5)).clamp(0, resolution - 1 - 1e-5)
        one = HashGridLayout(layout.in_dim, (resolution,), layout.log2_table_size, layout.feature_dim)
        features.append(hash_grid(position * (2 / (resolution - 1)) - 1, rows, one, implementation))
    features.append(x.new_zeros(x.shape[0], layout.feature_dim))
    return torch.cat(features, dim=1)


def _hashed_rows(resolution: int, layout: HashGridLayout) -> Tensor:
    """The hashed row of every lattice point of a level, (resolution^d,) in dense order, first axis fastest."""
    axis = torch.arange(resolution)
    corners = torch.cartesian_prod(*[axis] * layout.in_dim).reshape(-1, layout.in_dim).flip(1)
    rows = corners[:, 0]
    for k in range(1, layout.in_dim):
        rows = rows ^ (corners[:, k] * PRIMES[k])
    return rows & (layout.table_size - 1)
