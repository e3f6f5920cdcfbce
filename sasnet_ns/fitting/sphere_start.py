"""A field that starts as the distance of a sphere, so that sign-agnostic losses know outside from inside."""

from __future__ import annotations

import torch

from sasnet_ns.fitting.recipe import Recipe, build_optimizers
from sasnet_ns.networks import SignedDistanceField


def start_as_sphere(
    field: SignedDistanceField,
    recipe: Recipe,
    points_per_batch: int,
    seed: int = 0,
    *,
    steps: int = 150,
    radius: float = 0.45,
) -> None:
    """Fit a field to ``|p| - radius`` in place, with half the recipe's learning rates, at points uniform in the box.

    SAL and IGR choose initial weights that make a ReLU network nearly that (Atzmon and Lipman 2020, Theorem 1); sine
    networks have no such weights, so they learn it.

    Args:
        field: in box units.
        recipe: optimisers and peak learning rates.
        points_per_batch: points in a step.
        seed: of the points.
        steps: optimisation steps.
        radius: of the sphere, box units; 0.45 just holds the shape's longest side.
    """
    optimizers = build_optimizers(field.network, recipe)
    peaks = {role: optimizer.param_groups[0]["lr"] / 2 for role, optimizer in optimizers.items()}
    device = field.scale.device
    generator = torch.Generator(device).manual_seed(seed)
    for step in range(steps):
        for role, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peaks[role] * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
        points = torch.rand(points_per_batch, 3, generator=generator, device=device) - 0.5
        (field(points) - points.norm(dim=-1) + radius).abs().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
