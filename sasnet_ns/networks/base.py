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

    Attributes:
        in_dim: number of input coordinates.
        out_dim: number of output channels.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = out_dim

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
        with torch.enable_grad():
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
