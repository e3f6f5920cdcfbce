"""How a network is optimised: one optimiser and learning rate per role of its parameters, one schedule for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sasnet_ns.kernels import Adam
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.training.muon import Muon
from sdf_tools import schedules


@dataclass
class Recipe:
    """Optimiser and learning-rate schedule, for every network alike."""

    steps: int = 5_000
    """Optimisation steps; the schedule spans them."""
    optimizer: Literal["muon", "adam"] = "muon"
    """Optimiser of the hidden weight matrices; all other parameters use Adam."""
    learning_rate: float = 5e-3
    """Peak learning rate of Adam on biases, phases and the output layer (and on everything, with optimizer=adam)."""
    hidden_learning_rate: float = 5e-4
    """Peak learning rate of Muon on the hidden matrices, on Adam's scale."""
    mask_learning_rate: float = 1.5e-2
    """Peak learning rate of Adam on hash grids and mask decoders."""
    warmup_steps: int = 50
    """Steps over which the rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    final_factor: float = 0.0
    """Last learning rate, as a share of the peak."""


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step, a plain float: warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return 1.0
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    shape = schedules.cosine if recipe.schedule == "cosine" else schedules.linear
    return shape(progress, 1.0, recipe.final_factor)


def build_optimizer(role: ParameterRole, parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of one role's parameters, of one network or stacked ones, at its peak learning rate."""
    if role == "hidden" and recipe.optimizer == "muon":
        return Muon(parameters, lr=recipe.hidden_learning_rate)
    rate = recipe.mask_learning_rate if role == "masks" else recipe.learning_rate
    # eps far below the gradients of a hash grid that few points touch, as instant-ngp does.
    return Adam(parameters, lr=rate, betas=(0.9, 0.99), eps=1e-15)


def build_optimizers(network: Network, recipe: Recipe) -> dict[ParameterRole, torch.optim.Optimizer]:
    """One optimiser for each role that the network has."""
    return {role: build_optimizer(role, params, recipe) for role, params in network.parameter_roles().items()}
