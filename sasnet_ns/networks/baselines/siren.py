"""SIREN: sinusoidal representation network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import Implementation, masked_sine
from sasnet_ns.kernels._choose import transformed
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.layers import linears, sine_uniform_


class Siren(Network):
    """SIREN (Sitzmann et al., NeurIPS 2020): every layer is ``sin(omega_0 (W h + b))``, the output affine.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every sine layer.
        hidden_layers: sine layers after the first.
        omega_0: frequency scale of every sine layer.
        coordinate_scale: the network sees the coordinates times this: 0.5 on signed distances, where the box is
            [-0.5, 0.5]^3 in BACON's and FINER's programs.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.masked_sine`.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 256,
        hidden_layers: int = 2,
        omega_0: float = 30.0,
        coordinate_scale: float = 1.0,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.omega_0, self.coordinate_scale = omega_0, coordinate_scale
        self.implementation = implementation
        self.first = nn.Linear(in_dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden_layers))
        self.output = nn.Linear(width, out_dim)
        with torch.no_grad():
            self.first.weight.uniform_(-1 / in_dim, 1 / in_dim)
        for layer in (*self.hidden, self.output):
            sine_uniform_(layer.weight, omega_0)

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "hidden" if name.startswith("hidden.") and parameter.ndim == 2 else "backbone"

    def _activation(self, h: Float[Tensor, "N inner"], layer: nn.Linear, exact: bool) -> Float[Tensor, "N outer"]:
        """A layer; ``exact`` if it will be differentiated by the coordinates."""
        z = torch.nn.functional.linear(h, layer.weight)
        return masked_sine(z, layer.bias, self.omega_0, implementation=self.implementation)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; first and last layer stay fp32 under autocast."""
        exact = x.requires_grad or transformed(x)
        with torch.autocast(x.device.type, enabled=False):
            points = self.coordinate_scale * x.reshape(-1, self.in_dim).to(self.first.weight.dtype)
            h = self._activation(points, self.first, exact)
        for layer in linears(self.hidden):
            h = self._activation(h, layer, exact)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(h.to(self.output.weight.dtype)).reshape(*x.shape[:-1], self.out_dim)
