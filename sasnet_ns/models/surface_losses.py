"""Losses on rendered depth, normals and opacity: pure functions, weights belong to the caller."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def scale_shift_depth_loss(
    depth: Float[Tensor, "R"], prior: Float[Tensor, "R"], picture: Int[Tensor, "R"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean ((w d + q) - prior)^2`` with the best scale w and shift q of each picture (MonoSDF, eqs. 12 and 13).

    Yu et al., NeurIPS 2022. Priors are first divided by their own spread in each picture, so that the weight does not
    depend on their units. Pictures with fewer than three valid rays tell nothing and are left out.

    Args:
        depth: rendered depth.
        prior: monocular depth, known up to scale and shift.
        picture: index of the picture of each ray.
        valid: rays that count.
    """
    if not bool(valid.any()):
        return depth.sum() * 0
    depth, prior = depth[valid], prior[valid]
    _, group = torch.unique(picture[valid], return_inverse=True)
    count = torch.bincount(group).to(depth)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros_like(count).index_add(0, group, values) / count

    prior = prior - mean(prior)[group]
    spread = mean(prior.square()).sqrt().clamp_min(1e-6)
    prior = prior / spread[group]
    centered = depth - mean(depth)[group]
    scale = mean(centered * prior) / mean(centered.square()).clamp_min(1e-8)
    error = (scale[group] * centered - prior).square()
    enough = (count >= 3)[group]
    return (error * enough).sum() / enough.sum().clamp_min(1)


def metric_depth_loss(
    depth: Float[Tensor, "R"], measured: Float[Tensor, "R"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean |d - measured|`` over valid rays, scene units."""
    return ((depth - measured).abs() * valid).sum() / valid.sum().clamp_min(1)


def normal_prior_loss(
    normals: Float[Tensor, "R 3"], prior: Float[Tensor, "R 3"], valid: Bool[Tensor, "R"]
) -> Float[Tensor, ""]:
    """``mean |n - prior|_1 + |1 - n . prior|`` over valid rays, both made unit vectors (MonoSDF, eq. 14)."""
    normals, prior = (torch.nn.functional.normalize(value, dim=-1) for value in (normals, prior))
    error = (normals - prior).abs().sum(-1) + (1 - (normals * prior).sum(-1)).abs()
    return (error * valid).sum() / valid.sum().clamp_min(1)


def opacity_loss(opacity: Float[Tensor, "R"], mask: Float[Tensor, "R"]) -> Float[Tensor, ""]:
    """Binary cross-entropy between the rays' opacity and the foreground mask (NeuS, eq. 17)."""
    return torch.nn.functional.binary_cross_entropy(opacity.clamp(1e-3, 1 - 1e-3), mask)
