"""The training loop of K networks of one architecture, each on a shape of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sasnet_ns.kernels import PointLoss, tune
from sasnet_ns.networks.stacked import StackedNetworks
from sasnet_ns.training.divergence import DivergedError, DivergenceGuard
from sasnet_ns.training.loop import History
from sasnet_ns.training.objective import SDFObjective, point_loss, progress_at
from sasnet_ns.training.recipe import Recipe, build_optimizer, learning_rate_factor
from sdf_tools.losses import eikonal_loss
from sdf_tools.pools import SDFPool


class StackedPools:
    """Pools of K shapes, drawn alike, as one: a batch is the same slices of all.

    Args:
        pools: on one device; their tensors are copied.

    Raises:
        ValueError: they differ in size or kinds.
    """

    def __init__(self, pools: Sequence[SDFPool]) -> None:
        if len({pool.counts for pool in pools}) != 1:
            raise ValueError("pools of shapes that are fitted together need the same numbers of points.")
        self._first = pools[0]
        self.points = torch.stack([pool.points for pool in pools])
        self.sdf = torch.stack([pool.sdf for pool in pools])

    def batch(self, count: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (K, count, 3) of a step, their signed distances (K, count) and kinds (count,)."""
        spans = self._first.spans(count, step)
        points, sdf = (torch.cat([values[:, span] for span in spans], 1) for values in (self.points, self.sdf))
        return points, sdf, torch.cat([self._first.kind[span] for span in spans])


def check_objective(objective: SDFObjective) -> None:
    """Refuse loss terms that one network at a time has to be trained with.

    Raises:
        ValueError: there is such a term.
    """
    for name in ("mask_sparsity_weight", "band_dropout"):
        if getattr(objective, name):
            raise ValueError(f"fields with objective.{name} are not trained together; fit them one at a time.")


def train_together(
    networks: StackedNetworks,
    pools: StackedPools,
    recipe: Recipe,
    objective: SDFObjective,
    points_per_batch: int,
    *,
    report: Callable[[int, float], None] | None = None,
    report_every: int = 10,
    histories: Sequence[History] | None = None,
) -> tuple[list[list[float]], dict[int, str]]:
    """Optimise K networks on signed distances; losses, rates and batches are those of :func:`training.loop.train`.

    Args:
        networks: their tensors are changed in place; :meth:`StackedNetworks.write_back` is the caller's.
        pools: of the shapes, box units.
        recipe: of all.
        objective: of all; see :func:`check_objective`.
        points_per_batch: of each network.
        report: called with the steps done and the mean loss of the networks that are well.
        report_every: steps between reports and between entries of the losses.
        histories: one a network, filled as training goes, so that an interruption keeps them.

    Returns:
        For each network the loss of every ``report_every``-th step, the last included; and for those that ran away
        (as :class:`DivergenceGuard` sees it) what was seen. Their values are of no use, and they harm no other.
    """
    check_objective(objective)
    if recipe.clip_norm is not None:
        raise ValueError("networks in one pass have no clip_norm: train them one by one, or leave it out.")
    tune()
    optimizers = {role: build_optimizer(role, found, recipe) for role, found in networks.parameter_roles().items()}
    peaks = {role: optimizer.param_groups[0]["lr"] for role, optimizer in optimizers.items()}
    guards = {k: DivergenceGuard(dict, (), rollbacks=0) for k in range(len(networks))}
    histories = [History() for _ in range(len(networks))] if histories is None else histories
    began = time.perf_counter()
    away: dict[int, str] = {}
    for step in range(recipe.steps):
        factor = learning_rate_factor(step, recipe)
        for role, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peaks[role] * factor
        losses = _gradients(networks, pools, objective, points_per_batch, step, progress_at(step, recipe.steps))
        for optimizer in optimizers.values():
            optimizer.step()
        done = step + 1
        for k, loss in enumerate(losses.unbind()):
            if k not in away:
                try:
                    guards[k].after_step(done, loss)
                except DivergedError as error:
                    away[k] = str(error)
        if done % report_every and done != recipe.steps:
            continue
        values = losses.tolist()
        for k, value in enumerate(values):
            history = histories[k]
            history.step.append(done)
            history.seconds.append(time.perf_counter() - began)
            history.loss.append(value)
            history.psnr.append(math.nan)
            if value - value != 0:  # infinite or no number
                away.setdefault(k, f"the loss is {value} at step {done:,}.")
        if report is not None:
            well = [value for k, value in enumerate(values) if k not in away]
            report(done, sum(well) / len(well) if well else float("nan"))
    return [history.loss for history in histories], away


def _gradients(
    networks: StackedNetworks, pools: StackedPools, objective: SDFObjective, count: int, step: int, progress: float
) -> Tensor:
    """The losses (K,) of a step; gradients go where the optimisers look."""
    points, sdf, kind = pools.batch(count, step)
    loss: PointLoss
    loss, shares = point_loss(kind, objective, progress)
    weight = None if shares is None else shares.expand(len(networks), -1)
    losses, _ = networks.step(points, sdf[..., None], loss, weight, scale=2.0)
    factor = objective.eikonal_weight_at(progress)
    if factor > 0:
        stride = -(-points.shape[1] // objective.eikonal_points)
        extra = factor * _eikonal(networks, points[:, ::stride])
        extra.sum().backward()
        losses = losses + extra.detach()
    return losses


def _eikonal(networks: StackedNetworks, points: Tensor) -> Tensor:
    """The Eikonal term of each network (K,) at points (K, N, 3) in box units."""
    x = (2 * points).requires_grad_()
    (slopes,) = torch.autograd.grad(networks(x).sum(), x, create_graph=True)
    return torch.stack([eikonal_loss(2 * own) for own in slopes])
