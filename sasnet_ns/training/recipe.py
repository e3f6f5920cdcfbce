"""How a network is optimised: one optimiser and learning rate per role of its parameters, one schedule for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sasnet_ns.kernels import Adam
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.training.adan import Adan
from sasnet_ns.training.muon import Muon
from sdf_tools import schedules
from sdf_tools.ranges import require


@dataclass
class Recipe:
    """Optimiser and learning-rate schedule, for every network alike.

    Raises:
        ValueError: a number is out of range, see :meth:`check`.
    """

    steps: int = 5_000
    """Optimisation steps; the schedule spans them."""
    optimizer: Literal["muon", "adam", "adan"] = "muon"
    """Optimiser of the hidden weight matrices, muon or adam, while all other parameters use Adam; adan is for all, with
    its own decay rates."""
    learning_rate: float = 5e-3
    """Peak learning rate of Adam on biases, phases and the output layer (on all but masks, with adam or adan)."""
    hidden_learning_rate: float = 5e-4
    """Peak learning rate of Muon on the hidden matrices, on Adam's scale."""
    mask_learning_rate: float = 1.5e-2
    """Peak learning rate of Adam on hash grids and mask decoders."""
    warmup_steps: int = 50
    """Steps over which the rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """Shape of the decay after the warm-up; exponential needs a final_factor above 0."""
    final_factor: float = 0.0
    """Last learning rate, as a share of the peak."""
    halve_every: int = 0
    """Steps after which the rate is halved, again and again, besides the schedule; 0 for never."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of Adam's two moments."""
    epsilon: float = 1e-15
    """Added to the root of Adam's second moment; far below the gradients of a hash grid that few points touch, as
    instant-ngp has it."""
    amsgrad: bool = False
    """Adam with the largest second moment so far (Reddi et al. 2018), as BACON's and FINER's programs for shapes."""
    clip_norm: float | None = None
    """Largest norm of the gradient of all parameters together, a longer one is shortened to it; None leaves it as it
    is. BACON's and FINER's programs have 1 for the sum over a batch, so 1 / points for the mean that is used here."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse what nothing can be trained with; again before training, because fields may have been set since.

        Raises:
            ValueError: a number is out of range.
        """
        names = ("steps", "warmup_steps", "halve_every", "epsilon")
        for name in (*names, "learning_rate", "hidden_learning_rate", "mask_learning_rate"):
            require(name, getattr(self, name), 0)
        require("final_factor", self.final_factor, 0)
        if self.schedule == "exponential" and self.final_factor == 0:
            raise ValueError("final_factor must be more than 0: an exponential schedule needs positive ends.")
        require("clip_norm", self.clip_norm, 0, above=True)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two decay rates of at least 0 and below 1, not {self.betas}.")


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step, a plain float: warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    halved = 0.5 ** (step // recipe.halve_every) if recipe.halve_every else 1.0
    if recipe.schedule == "constant":
        return halved
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    shapes = {"cosine": schedules.cosine, "linear": schedules.linear, "exponential": schedules.exponential}
    return halved * shapes[recipe.schedule](progress, 1.0, recipe.final_factor)


def build_optimizer(role: ParameterRole, parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of one role's parameters, of one network or stacked ones, at its peak learning rate.

    Raises:
        ValueError: the recipe has adan and amsgrad.
    """
    if role == "hidden" and recipe.optimizer == "muon":
        return Muon(parameters, lr=float(recipe.hidden_learning_rate))
    # numpy's numbers, which a sweep may give, would end up in checkpoints that nothing reads.
    rate = float(recipe.mask_learning_rate if role == "masks" else recipe.learning_rate)
    betas, epsilon = (float(recipe.betas[0]), float(recipe.betas[1])), float(recipe.epsilon)
    if recipe.optimizer == "adan":
        if recipe.amsgrad:
            raise ValueError("recipe: amsgrad is Adam's; it does not go with optimizer adan.")
        return Adan(parameters, lr=rate, eps=epsilon)
    return Adam(parameters, lr=rate, betas=betas, eps=epsilon, amsgrad=bool(recipe.amsgrad))


def build_optimizers(network: Network, recipe: Recipe) -> dict[ParameterRole, torch.optim.Optimizer]:
    """One optimiser for each role that the network has."""
    return {role: build_optimizer(role, params, recipe) for role, params in network.parameter_roles().items()}
