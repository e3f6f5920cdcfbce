"""What every network of the registry offers."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

ParameterRole = Literal["backbone", "hidden", "masks"]
"""How an optimiser treats a parameter: ``hidden`` are the square-ish weight matrices between hidden layers (Muon's
domain), ``masks`` the hash-grid tables and mask decoders (which want a higher rate), ``backbone`` everything else."""


class Network(nn.Module):
    """A coordinate network: (..., in_dim) coordinates in [-1, 1] to (..., out_dim) values.

    Some methods are more than a function of the weights: they look at the signal first, have a loss term of their own,
    or change while they train. A training loop serves all of them with three calls, which do nothing for the others:

    - ``network.initialize_from(signal)`` once, before the optimisers are built, where the signal is known on a grid;
    - ``loss + network.penalty()`` in every step;
    - ``network.on_step(step, steps, x, error)`` after every optimisation step.

    Attributes:
        in_dim: number of input coordinates.
        out_dim: number of output channels.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = out_dim

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Look at the signal before training; networks that do not need to ignore it.

        Args:
            signal: (n_1, ..., n_in_dim, out_dim) values at the cell centres of a regular grid over [-1, 1]^in_dim, the
                first axis along the first coordinate.
        """

    def output_layer(self) -> nn.Linear | None:
        """The affine layer whose values are the network's; None where there is none."""
        layer = getattr(self, "output", None)
        return layer if isinstance(layer, nn.Linear) else None

    def penalty(self) -> Tensor:
        """The scalar loss term that the network's own paper adds to the data term, weighted; zero for most."""
        return next(self.parameters()).new_zeros(())

    def on_step(self, step: int, steps: int, x: Float[Tensor, "N d"], error: Float[Tensor, "N"]) -> None:
        """Tell the network that an optimisation step is done; progressive networks use it, the others ignore it.

        Args:
            step: number of finished steps, 1 after the first.
            steps: number of steps of the whole run.
            x: (N, in_dim) coordinates of the step's batch.
            error: (N,) squared error at each of them, mean over the channels, without a graph.
        """

    def parameter_roles(self) -> dict[ParameterRole, list[nn.Parameter]]:
        """Trainable parameters by role; every trainable parameter appears exactly once, no list is empty."""
        roles: dict[ParameterRole, list[nn.Parameter]] = {"backbone": [], "hidden": [], "masks": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                roles[self._role(name, parameter)].append(parameter)
        return {role: parameters for role, parameters in roles.items() if parameters}

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "backbone"

    def parameter_count(self) -> int:
        """Number of trainable values, the convention of the paper's tables (frozen frequencies do not count)."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def value_and_gradient(
        self, x: Float[Tensor, "*batch d"]
    ) -> tuple[Float[Tensor, "*batch out"], Float[Tensor, "*batch out d"]]:
        """Values and their analytic derivatives with respect to the coordinates.

        Args:
            x: (..., in_dim) coordinates in [-1, 1].

        Returns:
            values (..., out_dim) and Jacobian (..., out_dim, in_dim), both differentiable again with respect to the
            parameters, as Eikonal losses need.
        """
        with torch.inference_mode(False):  # records gradients under no_grad as well
            x = x.clone() if x.is_inference() else x
            points = x if x.requires_grad else x.detach().requires_grad_(True)
            values = self(points)
            rows = [
                torch.autograd.grad(values[..., k].sum(), points, create_graph=True)[0] for k in range(self.out_dim)
            ]
        return values, torch.stack(rows, dim=-2)

    def gradient(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The analytic gradient of a network with one output channel, differentiable again.

        Args:
            x: (..., in_dim) coordinates in [-1, 1].

        Returns:
            (..., in_dim) derivatives per unit of ``x``.

        Raises:
            ValueError: the network has more than one output channel; use :meth:`value_and_gradient`.
        """
        if self.out_dim != 1:
            raise ValueError(
                f"gradient() is for one output channel, this network has {self.out_dim}; use value_and_gradient()."
            )
        return self.value_and_gradient(x)[1][..., 0, :]
