"""A network with Gaussian activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.layers import linears


class Gauss(Network):
    """A network with Gaussian activations (Ramasinghe and Lucey, ECCV 2022): ``exp(-(scale (W h + b))^2)``.

    torch's default initialisation and affine output, as in the FINER program that the SASNet paper uses.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every layer.
        hidden_layers: layers after the first.
        scale: inverse width of the Gaussian; ``1 / (sqrt(2) a)`` in the notation of the paper.
        coordinate_scale: the network sees the coordinates times this: 0.5 on signed distances, where the box is
            [-0.5, 0.5]^3 in BACON's and FINER's programs.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 256,
        hidden_layers: int = 2,
        scale: float = 30.0,
        coordinate_scale: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.scale, self.coordinate_scale = scale, coordinate_scale
        self.first = nn.Linear(in_dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden_layers))
        self.output = nn.Linear(width, out_dim)

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "hidden" if name.startswith("hidden.") and parameter.ndim == 2 else "backbone"

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; first and last layer stay fp32 under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            h = self._bump(self.first, self.coordinate_scale * x.reshape(-1, self.in_dim).to(self.first.weight.dtype))
        for layer in linears(self.hidden):
            h = self._bump(layer, h)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(h.to(self.output.weight.dtype)).reshape(*x.shape[:-1], self.out_dim)

    def _bump(self, layer: nn.Linear, h: Float[Tensor, "N inner"]) -> Float[Tensor, "N outer"]:
        return torch.exp(-(self.scale * layer(h)).square())
