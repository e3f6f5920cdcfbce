"""From signed distances to what volume rendering needs: NeuS's opacity and VolSDF's density."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def neus_alpha(
    sdf: Float[Tensor, "*batch 1"],
    slope: Float[Tensor, "*batch 1"],
    length: Float[Tensor, "*batch 1"],
    sharpness: Float[Tensor, "1"],
    cos_anneal: float = 1.0,
) -> Float[Tensor, "*batch 1"]:
    """Opacity of ray intervals by NeuS (Wang et al., NeurIPS 2021, eq. 13), with its authors' slope annealing.

    The distances at both ends of an interval are extrapolated from the one given: ``f +- slope * length / 2``.

    Args:
        sdf: signed distance f, negative inside, scene units.
        slope: derivative of f along the ray, the gradient times the unit direction.
        length: length of the interval, scene units.
        sharpness: the s of the logistic distribution whose CDF turns distance into opacity, per scene unit.
        cos_anneal: 0 lets the opacity hardly depend on the slope, which keeps early training alive; 1 is the paper's.

    Returns:
        Opacity in [0, 1]; zero where the ray leaves the surface.
    """
    entering = torch.relu(0.5 - 0.5 * slope) * (1.0 - cos_anneal) + torch.relu(-slope) * cos_anneal
    half = 0.5 * entering * length
    before = torch.sigmoid((sdf + half) * sharpness)
    after = torch.sigmoid((sdf - half) * sharpness)
    return ((before - after + 1e-5) / (before + 1e-5)).clamp(0.0, 1.0)


def neus_ray_alpha(
    sdf: Float[Tensor, "*rays S 1"],
    slope: Float[Tensor, "*rays S 1"],
    length: Float[Tensor, "*rays S 1"],
    sharpness: Float[Tensor, "1"],
    cos_anneal: float = 1.0,
) -> Float[Tensor, "*rays S 1"]:
    """Opacity of a ray's intervals by NeuS (eq. 13) from distances that adjoining intervals share.

    :func:`neus_alpha` extrapolates both ends of an interval from one sample. Where samples are sparse, as proposal
    networks place them off the surface, a ray that only passes by then seems to enter the surface, and floating pieces
    appear. Here the distance at the border of two intervals is the cubic through both samples' distances and slopes at
    its middle, so that opacities telescope: a ray that stays outside stays clear.

    Args:
        sdf: signed distance f at consecutive samples of a ray, negative inside, scene units.
        slope: derivative of f along the ray at the samples.
        length: from each sample to the next, scene units.
        sharpness: see :func:`neus_alpha`.
        cos_anneal: see :func:`neus_alpha`.

    Returns:
        Opacity in [0, 1] of the intervals around the samples.
    """
    step = length[..., :-1, :]
    border = (sdf[..., :-1, :] + sdf[..., 1:, :]) / 2 + step / 8 * (slope[..., :-1, :] - slope[..., 1:, :])
    first = sdf[..., :1, :] - slope[..., :1, :] * length[..., :1, :] / 2
    last = sdf[..., -1:, :] + slope[..., -1:, :] * length[..., -1:, :] / 2
    start, end = torch.cat([first, border], dim=-2), torch.cat([border, last], dim=-2)
    middle = (start + end) / 2
    entering = torch.relu(0.5 - 0.5 * slope) * length * (1.0 - cos_anneal) + torch.relu(start - end) * cos_anneal
    before = torch.sigmoid((middle + entering / 2) * sharpness)
    after = torch.sigmoid((middle - entering / 2) * sharpness)
    return ((before - after + 1e-5) / (before + 1e-5)).clamp(0.0, 1.0)


def volsdf_density(sdf: Float[Tensor, "*batch 1"], beta: Float[Tensor, "1"]) -> Float[Tensor, "*batch 1"]:
    """Density by VolSDF (Yariv et al., NeurIPS 2021, eqs. 2 and 3): ``CDF_Laplace(-f; beta) / beta``.

    Args:
        sdf: signed distance f, negative inside, scene units.
        beta: scale of the Laplace distribution, scene units.

    Returns:
        Density per scene unit: 0 far outside, ``1 / beta`` deep inside.
    """
    outside = 0.5 * torch.exp(-sdf.clamp_min(0) / beta)
    inside = 1 - 0.5 * torch.exp(sdf.clamp_max(0) / beta)
    return torch.where(sdf > 0, outside, inside) / beta
