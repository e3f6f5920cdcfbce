"""What a signed distance field is trained for: the coarse-to-fine loss and the optional terms beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.networks import Network, SASNet, SignedDistanceField
from sdf_tools import schedules
from sdf_tools.distance import SignedDistance
from sdf_tools.losses import coarse_to_fine_loss, distance_weighted_loss, eikonal_loss, mask_sparsity_loss
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
    """Weight lambda of the mean over points of the masks' sum, which closes masks where they are not needed (paper,
    Sec. 3.3, which gives no value); 0 leaves it out."""

    def eikonal_weight_at(self, progress: float) -> float:
        """The Eikonal term's weight at a share of training, 0 to 1."""
        last = self.eikonal_weight if self.eikonal_final_weight is None else self.eikonal_final_weight
        return schedules.linear(progress, self.eikonal_weight, last)

    def far_weight_at(self, progress: float) -> float:
        """The smallest weight of a sample at a share of training, 0 to 1."""
        return schedules.exponential(progress, self.far_weight, self.far_final_weight)


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
        masks = [mask for mask in field.network.masks(2 * batch.points) if mask is not None]
        if masks:
            losses["mask_sparsity"] = objective.mask_sparsity_weight * mask_sparsity_loss(masks)
    if type(field.network).penalty is not Network.penalty:
        losses["penalty"] = field.network.penalty()
    return losses, predicted


def progress_at(step: int, steps: int) -> float:
    """Share of training done at a step counted from 0: 0 in the first, 1 in the last."""
    return step / (steps - 1) if steps > 1 else 0.0


def look_at_shape(field: SignedDistanceField, distance: SignedDistance, resolution: int = 64) -> None:
    """Show the signed distance to a network that looks at the signal before training; nothing for the others.

    Args:
        field: the field, in box units.
        distance: of the shape in box units.
        resolution: cells along each side of the domain.
    """
    if type(field.network).initialize_from is Network.initialize_from:
        return
    axis = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution - 0.5
    values = distance(torch.cartesian_prod(axis, axis, axis)).float()
    field.network.initialize_from(values.reshape(resolution, resolution, resolution, 1).to(field.scale.device))


def finish_step(
    field: SignedDistanceField, batch: SDFBatch, predicted: Float[Tensor, " B"], step: int, steps: int
) -> None:
    """Tell a network that changes while it trains that step number ``step`` (from 1) of ``steps`` is done."""
    if type(field.network).on_step is not Network.on_step:
        field.network.on_step(step, steps, 2 * batch.points, (predicted.detach() - batch.sdf).square())
