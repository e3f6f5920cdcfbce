"""What a signed distance field is trained for: the coarse-to-fine loss and the optional terms beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sasnet_ns.kernels import FusedStep, PointLoss
from sasnet_ns.networks import Network, SASNet, SignedDistanceField, fused_step
from sdf_tools import schedules
from sdf_tools.distance import SignedDistance
from sdf_tools.losses import FINE, coarse_to_fine_loss, distance_weighted_loss, eikonal_loss, mask_sparsity_loss
from sdf_tools.pools import GOLDEN_RATIO, SDFBatch
from sdf_tools.ranges import require


@dataclass
class SDFObjective:
    """Loss terms of a signed distance field and their weights.

    Raises:
        ValueError: a number is out of range, see :meth:`check`.
    """

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
    """Points of each batch, at most, at which the Eikonal term is evaluated."""
    mask_sparsity_weight: float = 0.0
    """Weight lambda of the mean over points of the masks' sum, which closes masks where they are not needed (paper,
    Sec. 3.3, which gives no value); 0 leaves it out."""

    band_dropout: float = 0.0
    """Share of the steps of a SASNet that train with some of its high bands left out, so that each number of bands is a
    level of detail of its own; 0 trains all bands in every step. Below 1: the others train all bands."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse what nothing can be trained with; again before training, because fields may have been set since.

        Raises:
            ValueError: a number is out of range.
        """
        for name in ("coarse_weight", "eikonal_weight", "eikonal_final_weight", "mask_sparsity_weight"):
            require(name, getattr(self, name), 0)
        require("band_dropout", self.band_dropout, 0, 1)
        if self.band_dropout == 1:
            raise ValueError("band_dropout must be below 1, or no step trains all bands.")
        if self.loss != "coarse_to_fine":
            for name in ("near", "far_weight", "far_final_weight"):
                require(name, getattr(self, name), 0, above=True)
        if self.eikonal_weight or self.eikonal_final_weight:
            require("eikonal_points", self.eikonal_points, 1)

    def check_network(self, network: Network, name: str) -> None:
        """Refuse terms that a network has nothing for.

        Args:
            network: to be trained.
            name: what the sentence calls it.

        Raises:
            ValueError: a weight on masks without masks, or band dropout without bands.
        """
        masked = isinstance(network, SASNet) and network.mask_generator is not None
        if self.mask_sparsity_weight and not masked:
            raise ValueError(f"mask_sparsity_weight needs a network with masks, and '{name}' has none.")
        if self.band_dropout and not isinstance(network, SASNet):
            raise ValueError(f"band_dropout needs a network with bands, and '{name}' has none.")

    def bands_at(self, step: int, bands: int) -> int | None:
        """High bands that take part in a step: None for all, else fewer, each number equally often.

        Args:
            step: counted from 0; the same step always gives the same number.
            bands: of the network.
        """
        share = (step * GOLDEN_RATIO) % 1.0  # spreads the chosen steps evenly
        return int(share / self.band_dropout * bands) if share < self.band_dropout else None

    def eikonal_weight_at(self, progress: float) -> float:
        """The Eikonal term's weight at a share of training, 0 to 1."""
        last = self.eikonal_weight if self.eikonal_final_weight is None else self.eikonal_final_weight
        return schedules.linear(progress, self.eikonal_weight, last)

    def far_weight_at(self, progress: float) -> float:
        """The smallest weight of a sample at a share of training, 0 to 1."""
        return schedules.exponential(progress, self.far_weight, self.far_final_weight)


def sdf_losses(
    field: SignedDistanceField,
    batch: SDFBatch,
    objective: SDFObjective,
    progress: float = 0.0,
    fused: FusedStep | None = None,
    bands: int | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Weighted loss terms on a batch; the loss is their sum.

    Args:
        field: the field in training.
        batch: points and signed distances (for ``sign_agnostic``: unsigned ones) in box units.
        objective: terms and weights.
        progress: share of training done, 0 to 1, for the weight schedule.
        fused: the step of the field's network in one pass (:func:`sasnet_ns.networks.fused_step`), for the error of the
            distances; the other terms always take autograd's way.
        bands: high bands of a SASNet that take part; None for all. ``fused`` must be the step with as many.

    Returns:
        The terms by name (scalars), and the predicted distances (B,).
    """
    if fused is None:
        predicted = field(batch.points, bands)
        error = _distance_error(predicted, batch, objective, progress)
    else:
        loss, shares = point_loss(batch.kind, objective, progress)
        error, values = fused.with_graph(batch.points, batch.sdf[:, None], loss, shares, scale=2.0)
        predicted = values[:, 0]
    losses = {"sdf": error}
    weight = objective.eikonal_weight_at(progress)
    if weight > 0:
        # Every so many points: all kinds in their proportions, with a stride known beforehand.
        stride = -(-batch.points.shape[0] // objective.eikonal_points)
        losses["eikonal"] = weight * eikonal_loss(field.value_and_gradient(batch.points[::stride])[1])
    if objective.mask_sparsity_weight > 0 and isinstance(field.network, SASNet):
        masks = [mask for mask in field.network.masks(2 * batch.points) if mask is not None]
        if masks:
            losses["mask_sparsity"] = objective.mask_sparsity_weight * mask_sparsity_loss(masks)
    if type(field.network).penalty is not Network.penalty:
        losses["penalty"] = field.network.penalty()
    return losses, predicted


def _distance_error(predicted: Tensor, batch: SDFBatch, objective: SDFObjective, progress: float) -> Tensor:
    if objective.loss == "coarse_to_fine":
        return coarse_to_fine_loss(predicted, batch.sdf, batch.kind, coarse_weight=objective.coarse_weight)
    compared = predicted.abs() if objective.loss == "sign_agnostic" else predicted
    far_weight = objective.far_weight_at(progress)
    return distance_weighted_loss(compared, batch.sdf, near=objective.near, far_weight=far_weight)


def point_loss(kind: Tensor, objective: SDFObjective, progress: float) -> tuple[PointLoss, Tensor | None]:
    """The error of the distances as a loss of points, and their weights.

    Args:
        kind: of the batch's points, (B,).
        objective: terms and weights.
        progress: share of training done, 0 to 1.
    """
    if objective.loss == "coarse_to_fine":
        return PointLoss(power=2), torch.where(kind == FINE, 1.0, objective.coarse_weight)
    far_weight, absolute = objective.far_weight_at(progress), objective.loss == "sign_agnostic"
    return PointLoss(power=1, near=objective.near, far_weight=far_weight, absolute=absolute), None


def progress_at(step: int, steps: int) -> float:
    """Share of training done at a step counted from 0: 0 in the first, 1 in the last."""
    return step / (steps - 1) if steps > 1 else 0.0


class SDFStep:
    """The losses of training steps: which bands take part, and in one pass where the network has one for that.

    Args:
        field: the field in training, where it stays (its network's tensors are looked up once).
        objective: terms and weights.
        steps: of the whole run.
        fuse: whether to take the fused step where there is one.

    Raises:
        ValueError: a term that the network has nothing for.
    """

    def __init__(self, field: SignedDistanceField, objective: SDFObjective, steps: int, fuse: bool = True) -> None:
        objective.check_network(field.network, str(field.description["network"]))
        self.field, self.objective, self.steps = field, objective, steps
        self._fuse = fuse
        self._fused: dict[int | None, FusedStep | None] = {}
        self._last: tuple[SDFBatch, Tensor] | None = None

    def losses(self, batch: SDFBatch, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Weighted loss terms of a step (from 0) on its batch, and the predicted distances (B,)."""
        network = self.field.network
        bands = None
        if isinstance(network, SASNet) and self.objective.band_dropout > 0:
            bands = self.objective.bands_at(step, network.config.bands)
        if bands not in self._fused:
            self._fused[bands] = fused_step(network, bands) if self._fuse else None
        progress = progress_at(step, self.steps)
        losses, predicted = sdf_losses(self.field, batch, self.objective, progress, self._fused[bands], bands)
        self._last = (batch, predicted.detach())
        return losses, predicted

    def finish(self, done: int) -> None:
        """Tell a network that changes while it trains that step number ``done`` (from 1) is over."""
        network = self.field.network
        if self._last is not None and type(network).on_step is not Network.on_step:
            batch, predicted = self._last
            network.on_step(done, self.steps, 2 * batch.points, (predicted - batch.sdf).square())


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
