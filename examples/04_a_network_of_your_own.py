"""A network of your own beside the registry's: the same batches and steps, the same measure.

python examples/04_a_network_of_your_own.py --steps 300
"""

from __future__ import annotations

import math

import tyro
from torch import Tensor, nn

from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.networks import Network, register_network
from sasnet_ns.networks.base import ParameterRole
from sasnet_ns.training import Recipe


class ResidualSine(Network):
    """Two sine layers, the second beside a shortcut.

    Args:
        in_dim: coordinates, which lie in [-1, 1].
        out_dim: channels.
        width: neurons.
        omega: frequency factor of both layers.
    """

    def __init__(self, in_dim: int = 3, out_dim: int = 1, width: int = 64, omega: float = 30.0) -> None:
        super().__init__(in_dim, out_dim)
        self.omega = omega
        self.waves, self.residual = nn.Linear(in_dim, width), nn.Linear(width, width)
        self.last = nn.Linear(width, out_dim)
        nn.init.uniform_(self.waves.weight, -1 / in_dim, 1 / in_dim)
        nn.init.uniform_(self.residual.weight, -math.sqrt(6 / width) / omega, math.sqrt(6 / width) / omega)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) coordinates to (..., out_dim) values."""
        h = (self.omega * self.waves(x)).sin()
        return self.last(h + (self.omega * self.residual(h)).sin())

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "hidden" if name == "residual.weight" else "backbone"  # Muon trains the one, Adam the others


def main(shape: str = "armadillo", steps: int = 300, width: int = 64) -> None:
    """Train both networks alike and print their losses (a name or a file, optimisation steps, neurons a layer)."""
    register_network("residual_sine", ResidualSine)
    for name in ("residual_sine", "siren"):
        config = ShapeFit(network=name, network_config={"width": width}, pool_size=100_000, recipe=Recipe(steps=steps))
        fitted = fit_shape(shape, config)
        count = fitted.field.network.parameter_count()
        print(f"{name}: {count:,} parameters, loss {fitted.losses[-1]:.2e}")


if __name__ == "__main__":
    tyro.cli(main)
