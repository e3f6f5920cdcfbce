"""Linear interpolation on a regular grid over [-1, 1]^d, as the cells around each point and their weights."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor


def surrounding_cells(
    x: Float[Tensor, "N d"], count: int, *, first: float, last: float
) -> tuple[Int[Tensor, "N corners d"], Float[Tensor, "N corners"]]:
    """The 2^d grid points around each point and the weights of multilinear interpolation.

    Args:
        x: (N, d) coordinates.
        count: grid points along each axis, at least 2.
        first: coordinate of the first grid point of every axis.
        last: coordinate of the last one; points beyond are moved to the border.

    Returns:
        Indices along each axis (N, 2^d, d) and weights (N, 2^d), which add up to 1 and are differentiable in ``x``.
    """
    position = ((x - first) * ((count - 1) / (last - first))).clamp(0, count - 1)
    base = position.detach().floor().clamp(max=count - 2).nan_to_num(0.0).long()  # NaN stays in the fraction
    fraction = position - base
    bits = torch.tensor(list(itertools.product((0, 1), repeat=x.shape[1])), device=x.device)
    axis_weights = torch.where(bits.bool(), fraction[:, None, :], 1 - fraction[:, None, :])
    return base[:, None, :] + bits, axis_weights.prod(dim=2)


def flat_index(cells: Int[Tensor, "*batch d"], count: int) -> Int[Tensor, "*batch"]:
    """Row-major index of cells of a grid with ``count`` points along each axis."""
    powers = torch.tensor([count**k for k in reversed(range(cells.shape[-1]))], device=cells.device)
    return (cells * powers).sum(-1)
