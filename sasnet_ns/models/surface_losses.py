"""Losses on rendered depth, normals and opacity: pure functions, weights belong to the caller."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sasnet_ns.data.surface_photos import LEAST_MEASURED_RAYS


def scale_shift_depth_loss(
    depth: Float[Tensor, "R"], prior: Float[Tensor, "R"], picture: Int[Tensor, "R"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean (d - (w prior + q))^2`` with the best scale w >= 0 and shift q of each picture.

    MonoSDF (Yu et al., NeurIPS 2022, eqs. 12 and 13) fits the rendered depth to the prior instead. That blows up where
    the rendered depth is still flat or soft: on an object it kept the surface from forming. Scale and shift are
    constants for the gradient. Pictures with fewer than 16 valid rays are left out: a fit to a few says nothing.

    Args:
        depth: rendered depth, scene units.
        prior: monocular depth, known up to scale and shift.
        picture: index of the picture of each ray.
        valid: rays that count.

    Returns:
        Square scene units.
    """
    if not bool(valid.any()):
        return depth.sum() * 0
    depth, prior = depth[valid], prior[valid]
    _, group = torch.unique(picture[valid], return_inverse=True)
    count = torch.bincount(group).to(depth)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros_like(count).index_add(0, group, values) / count

    with torch.no_grad():
        prior = prior - mean(prior)[group]
        scale = (mean(depth * prior) / mean(prior.square()).clamp_min(1e-12)).clamp_min(0)
        target = scale[group] * prior + mean(depth)[group]
    error = (depth - target).square()
    enough = (count >= LEAST_MEASURED_RAYS)[group]
    return (error * enough).sum() / enough.sum().clamp_min(1)


def metric_depth_loss(
    depth: Float[Tensor, "R"], measured: Float[Tensor, "R"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean |d - measured|`` over valid rays, scene units."""
    return (depth[valid] - measured[valid]).abs().sum() / valid.sum().clamp_min(1)


def normal_prior_loss(
    normals: Float[Tensor, "R 3"], prior: Float[Tensor, "R 3"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean |n - prior|_1 + |1 - n . prior|`` over valid rays, both made unit vectors (MonoSDF, eq. 14)."""
    normals, prior = (torch.nn.functional.normalize(value[valid], dim=-1) for value in (normals, prior))
    error = (normals - prior).abs().sum(-1) + (1 - (normals * prior).sum(-1)).abs()
    return error.sum() / valid.sum().clamp_min(1)


def opacity_loss(opacity: Float[Tensor, "R"], mask: Float[Tensor, "R"]) -> Float[Tensor, ""]:
    """Binary cross-entropy between the rays' opacity and the foreground mask (NeuS, eq. 17)."""
    return torch.nn.functional.binary_cross_entropy(opacity.clamp(1e-3, 1 - 1e-3), mask)
