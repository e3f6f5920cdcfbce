"""The training recipe in nerfstudio's terms: an optimizer and a scheduler config for each role of the parameters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from nerfstudio.engine.optimizers import OptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sasnet_ns.networks.base import ParameterRole
from sasnet_ns.training.recipe import Recipe, build_optimizer, learning_rate_factor

ROLES: tuple[ParameterRole, ...] = ("backbone", "hidden", "masks")


@dataclass
class RoleOptimizerConfig(OptimizerConfig):
    """The optimizer of one role of the network's parameters, see ``sasnet_ns.training.recipe``."""

    _target: type = torch.optim.Adam
    """Not used: the role and ``optimizer`` decide."""
    lr: float = 3e-3
    """Peak learning rate."""
    eps: float = 1e-15
    """Adam's epsilon."""
    optimizer: Literal["muon", "adam", "adan"] = "muon"
    """For the hidden matrices: Muon, or Adam as everywhere else; adan here is of this role alone."""
    role: Literal["backbone", "hidden", "masks"] = "backbone"
    """Whose optimizer this is; leave it as it is."""

    def setup(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        recipe = Recipe(
            optimizer=self.optimizer,
            learning_rate=self.lr,
            hidden_learning_rate=self.lr,
            mask_learning_rate=self.lr,
        )
        optimizer = build_optimizer(self.role, params, recipe)
        for group in optimizer.param_groups:
            if "eps" in group:
                group["eps"] = self.eps
        return optimizer


@dataclass
class RecipeSchedulerConfig(SchedulerConfig):
    """Warm-up and decay of the learning rate, see ``sasnet_ns.training.recipe``."""

    _target: type = field(default_factory=lambda: RecipeScheduler)
    """Class to build."""
    steps: int | None = None
    """Steps that the schedule spans; None is --max-num-iterations."""
    warmup_steps: int = 50
    """Steps over which the rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """Shape of the decay after the warm-up; exponential needs a final_factor above 0."""
    final_factor: float = 0.0
    """Last learning rate, as a share of the peak."""


class RecipeScheduler(Scheduler):
    """A schedule whose state holds plain floats only: torch loads such checkpoints with ``weights_only=True``."""

    config: RecipeSchedulerConfig

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        """The scheduler of one optimizer; ``lr_init`` is already the optimizer's rate."""
        config = self.config
        recipe = Recipe(
            steps=config.steps if config.steps is not None else Recipe.steps,
            warmup_steps=config.warmup_steps,
            schedule=config.schedule,
            final_factor=config.final_factor,
        )
        return LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe))


def optimizer_configs(recipe: Recipe | None = None) -> dict[str, dict[str, Any]]:
    """nerfstudio's ``optimizers`` dictionary for a recipe."""
    recipe = recipe or Recipe()
    rates = {
        "backbone": recipe.learning_rate,
        "hidden": recipe.hidden_learning_rate if recipe.optimizer == "muon" else recipe.learning_rate,
        "masks": recipe.mask_learning_rate,
    }
    return {
        role: {
            "optimizer": RoleOptimizerConfig(
                lr=rates[role],
                eps=recipe.epsilon,
                optimizer="adam" if role != "hidden" and recipe.optimizer == "muon" else recipe.optimizer,
                role=role,
            ),
            "scheduler": RecipeSchedulerConfig(
                warmup_steps=recipe.warmup_steps, schedule=recipe.schedule, final_factor=recipe.final_factor
            ),
        }
        for role in ROLES
    }


class SparseLogOptimizers(Optimizers):
    """nerfstudio's optimizers without what costs a short step too much: learning rates are written every
    ``steps_per_log`` steps only, and gradients are dropped past torch's profiling hooks (70 us for each optimizer).

    Args:
        config: optimizer and scheduler of each parameter group.
        param_groups: the parameters.
        total_steps: what schedules without a length of their own span.
        steps_per_log: steps between two entries in the event file; 0 for none.
    """

    def __init__(
        self,
        config: dict[str, Any],
        param_groups: dict[str, list[nn.Parameter]],
        total_steps: int,
        steps_per_log: int,
    ) -> None:
        self.steps_per_log = steps_per_log
        super().__init__({name: _with_length(entry, total_steps) for name, entry in config.items()}, param_groups)

    def zero_grad_some(self, param_groups: list[str]) -> None:
        """Drop the gradients of some parameter groups."""
        for name in param_groups:
            for parameter in self.parameters[name]:
                parameter.grad = None

    def scheduler_step_all(self, step: int) -> None:
        """One step of every schedule."""
        for name, scheduler in self.schedulers.items():
            scheduler.step()
            if step_check(step, self.steps_per_log, run_at_zero=True):
                writer.put_scalar(f"learning_rate/{name}", scheduler.get_last_lr()[0], step)


def _with_length(entry: dict[str, Any], total_steps: int) -> dict[str, Any]:
    scheduler = entry["scheduler"]
    if isinstance(scheduler, RecipeSchedulerConfig) and scheduler.steps is None:
        entry = {**entry, "scheduler": dataclasses.replace(scheduler, steps=total_steps)}
    return cast("dict[str, Any]", entry)
