"""A field that starts as the distance of a sphere, so that sign-agnostic losses know outside from inside."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.loop import train
from sasnet_ns.training.recipe import Recipe


def start_as_sphere(
    field: SignedDistanceField,
    recipe: Recipe,
    points_per_batch: int,
    seed: int = 0,
    *,
    steps: int = 150,
    radius: float = 0.45,
    bands: int | None = None,
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
        bands: of a SASNet, the low group and only this many high bands learn it; None for all.
    """
    device = field.scale.device
    generator = torch.Generator(device).manual_seed(seed)

    def loss_at(step: int) -> Tensor:
        points = torch.rand(points_per_batch, 3, generator=generator, device=device) - 0.5
        return (field(points, bands) - points.norm(dim=-1) + radius).abs().mean()

    start = dataclasses.replace(
        recipe,
        steps=steps,
        learning_rate=recipe.learning_rate / 2,
        hidden_learning_rate=recipe.hidden_learning_rate / 2,
        mask_learning_rate=recipe.mask_learning_rate / 2,
        warmup_steps=0,
        schedule="linear",
        final_factor=0.0,
    )
    train(field.network, start, loss_at)
