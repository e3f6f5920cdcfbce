"""MetricGrids: hash grids in several metrics, read out by modulated sines."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.layers import linears, sine_uniform_


class MetricGrids(Network):
    """MetricGrids (Wang et al., CVPR 2025): a grid in each of the metrics x, sin x and arcsin x.

    The three grids' features are added; a SIREN reads the sum. Every sine layer is multiplied by the square of
    another sine layer, the first one's of the coordinates, the second's of the first grid's features, the third's of
    the second grid's and so on, the last grid serving all further layers. arcsin's grid has half the resolution.

    Each grid has tables of its own here; the authors' program reads all three from one table, at places shifted out
    of each other's way.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        grid_levels: levels of each grid.
        grid_log2_entries: base-2 logarithm of the largest table of a level.
        grid_min: resolution of the coarsest level.
        grid_max: resolution of the finest level.
        grid_features: features per entry.
        width: neurons of every sine layer.
        hidden_layers: sine layers after the first.
        omega_0: frequency scale of every sine layer.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.hash_grid`.
    """

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        grid_levels: int = 13,
        grid_log2_entries: int = 10,
        grid_min: int = 16,
        grid_max: int = 256,
        grid_features: int = 2,
        width: int = 64,
        hidden_layers: int = 3,
        omega_0: float = 30.0,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.omega_0, self.implementation = omega_0, implementation
        self.layouts = tuple(
            HashGridLayout.geometric(
                in_dim,
                levels=grid_levels,
                min_resolution=max(2, grid_min // shrunk),
                max_resolution=max(2, grid_max // shrunk),
                log2_table_size=grid_log2_entries,
                feature_dim=grid_features,
            )
            for shrunk in (1, 1, 2)
        )
        self.tables = nn.ParameterList(
            torch.empty(layout.total_entries, grid_features).uniform_(-1e-4, 1e-4) for layout in self.layouts
        )
        features = grid_levels * grid_features
        self.sines = nn.ModuleList(
            nn.Linear(features if layer == 0 else width, width) for layer in range(hidden_layers + 1)
        )
        self.modulators = nn.ModuleList(
            nn.Linear(in_dim if layer == 0 else features, width) for layer in range(hidden_layers + 1)
        )
        self.output = nn.Linear(width, out_dim)
        for layer in (*linears(self.sines), self.output):  # the modulators keep torch's own initial values
            first = layer is self.sines[0]
            bound = 1 / features if first else math.sqrt(6 / width) / omega_0
            nn.init.uniform_(layer.bias, -bound, bound)
            if first:
                nn.init.uniform_(layer.weight, -bound, bound)
            else:
                sine_uniform_(layer.weight, omega_0)

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "masks" if name.startswith("tables") else "backbone"

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]."""
        points = x.reshape(-1, self.in_dim).to(self.output.weight.dtype)
        inside = points.clamp(1e-6 - 1, 1 - 1e-6)  # arcsin has no slope at the ends
        metrics = (points, points.sin() / math.sin(1), inside.asin() * (2 / math.pi))
        grids = [
            hash_grid(metric, table, layout, implementation=self.implementation).to(points.dtype)
            for metric, table, layout in zip(metrics, self.tables, self.layouts, strict=True)
        ]
        h = grids[0] + grids[1] + grids[2]
        for layer, (sine, modulator) in enumerate(zip(self.sines, self.modulators, strict=True)):
            seen = (points + 1) / 2 if layer == 0 else grids[min(layer, len(grids)) - 1]
            gate = torch.sin(self.omega_0 * modulator(seen)).square()
            h = gate * torch.sin(self.omega_0 * sine(h))
        return self.output(h).reshape(*x.shape[:-1], self.out_dim)
