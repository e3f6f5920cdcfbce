"""A hash-grid MLP with the architecture of instant-ngp, to compare against."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid
from sasnet_ns.kernels.layout import Interpolation
from sasnet_ns.networks.base import Network, ParameterRole


class HashGridMLP(Network):
    """Multi-resolution hash encoding, then a ReLU MLP (Mueller et al., SIGGRAPH 2022).

    The defaults have as many parameters as the other networks of the SDF table (128,193).

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        grid_levels: levels of the hash grid.
        grid_log2_entries: base-2 logarithm of the largest table of a level.
        grid_min: resolution of the coarsest level.
        grid_max: resolution of the finest level.
        grid_features: features per entry.
        grid_interpolation: inside a cell, linear or smoothstep.
        width: neurons of each of the two hidden layers.
        hidden_layers: number of hidden layers.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.hash_grid`.
        levels: former name of ``grid_levels``.
        log2_entries: former name of ``grid_log2_entries``.
        features: former name of ``grid_features``.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        grid_levels: int = 8,
        grid_log2_entries: int = 13,
        grid_min: int = 16,
        grid_max: int = 256,
        grid_features: int = 2,
        grid_interpolation: Interpolation = "linear",
        width: int = 64,
        hidden_layers: int = 2,
        implementation: Implementation = "auto",
        levels: int | None = None,
        log2_entries: int | None = None,
        features: int | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim)
        grid_levels = grid_levels if levels is None else levels
        grid_log2_entries = grid_log2_entries if log2_entries is None else log2_entries
        grid_features = grid_features if features is None else features
        self.layout = HashGridLayout.geometric(
            in_dim,
            levels=grid_levels,
            min_resolution=grid_min,
            max_resolution=grid_max,
            log2_table_size=grid_log2_entries,
            feature_dim=grid_features,
            interpolation=grid_interpolation,
        )
        self.implementation = implementation
        self.table = nn.Parameter(torch.empty(self.layout.total_entries, grid_features).uniform_(-1e-4, 1e-4))
        widths = (grid_levels * grid_features, *([width] * hidden_layers))
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], out_dim))

    def output_layer(self) -> nn.Linear | None:
        """The last layer of the MLP."""
        layer = self.mlp[-1]
        return layer if isinstance(layer, nn.Linear) else None

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "masks" if name == "table" else "backbone"

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]."""
        points = x.reshape(-1, self.in_dim).to(self.table.dtype)
        features = hash_grid(points, self.table, self.layout, implementation=self.implementation)
        return self.mlp(features.to(points.dtype)).reshape(*x.shape[:-1], self.out_dim)
