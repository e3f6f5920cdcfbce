"""What a signed distance field is trained for: the coarse-to-fine loss and the optional terms beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sasnet_ns.networks import SASNet, SignedDistanceField
from sdf_tools.losses import coarse_to_fine_loss, distance_weighted_loss, eikonal_loss
from sdf_tools.pools import SDFBatch


@dataclass
class SDFObjective:
    """Loss terms of a signed distance field and their weights."""

    loss: Literal["distance_weighted", "coarse_to_fine", "sign_agnostic"] = "distance_weighted"
    """Error of the distances: absolute and weighted by distance from the surface, the paper's squared one, or the
    former between the field's absolute value and unsigned distances (SAL, Atzmon and Lipman 2020), for point clouds
    whose sides nobody knows."""
    near: float = 2.5e-4
    """distance_weighted: distance at which a sample counts half as much as one on the surface, box units."""
    far_weight: float = 0.03
    """distance_weighted: smallest weight of a sample far away, at the start of training."""
    far_final_weight: float = 0.003
    """distance_weighted: the same at the end; it falls geometrically, so empty space settles before the surface."""
    coarse_weight: float = 0.01
    """coarse_to_fine: weight of the coarse and uniform samples against the fine ones (paper: 0.01)."""
    eikonal_weight: float = 0.0
    """Weight of the Eikonal term (|grad| - 1)^2 at the start; 0 leaves it out (as the paper does)."""
    eikonal_final_weight: float | None = None
    """Weight of the Eikonal term at the end; it changes linearly from step to step. None keeps eikonal_weight."""
    eikonal_points: int = 2_000
    """Points of each batch at which the Eikonal term is evaluated."""
    mask_sparsity_weight: float = 0.0
    """Weight of the mean mask value, which closes masks where they are not needed; 0 leaves it out."""

    def eikonal_weight_at(self, progress: float) -> float:
        """The Eikonal term's weight at a share of training, 0 to 1."""
        last = self.eikonal_weight if self.eikonal_final_weight is None else self.eikonal_final_weight
        return self.eikonal_weight + (last - self.eikonal_weight) * min(1.0, progress)

    def far_weight_at(self, progress: float) -> float:
        """The smallest weight of a sample at a share of training, 0 to 1."""
        return self.far_weight * (self.far_final_weight / self.far_weight) ** min(1.0, progress)


def sdf_losses(
    field: SignedDistanceField, batch: SDFBatch, objective: SDFObjective, progress: float = 0.0
) -> tuple[dict[str, Tensor], Tensor]:
    """Weighted loss terms on a batch; the loss is their sum.

    Args:
        field: the field in training.
        batch: points and signed distances (for ``sign_agnostic``: unsigned ones) in box units.
        objective: terms and weights.
        progress: share of training done, 0 to 1, for the weight schedule.

    Returns:
        The terms by name (scalars), and the predicted distances (B,).
    """
    predicted = field(batch.points)
    if objective.loss == "coarse_to_fine":
        error = coarse_to_fine_loss(predicted, batch.sdf, batch.kind, coarse_weight=objective.coarse_weight)
    else:
        far_weight = objective.far_weight_at(progress)
        compared = predicted.abs() if objective.loss == "sign_agnostic" else predicted
        error = distance_weighted_loss(compared, batch.sdf, near=objective.near, far_weight=far_weight)
    losses = {"sdf": error}
    weight = objective.eikonal_weight_at(progress)
    if weight > 0:
        # Every so many points: all kinds in their proportions, with a stride known beforehand.
        stride = max(1, batch.points.shape[0] // objective.eikonal_points)
        losses["eikonal"] = weight * eikonal_loss(field.value_and_gradient(batch.points[::stride])[1])
    if objective.mask_sparsity_weight > 0 and isinstance(field.network, SASNet):
        masks = [mask.mean() for mask in field.network.masks(2 * batch.points) if mask is not None]
        if masks:
            losses["mask_sparsity"] = objective.mask_sparsity_weight * torch.stack(masks).mean()
    return losses, predicted
