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
