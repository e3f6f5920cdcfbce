"""MSIREN: a SIREN whose amplitudes are modulated by local latent codes."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.interpolation import flat_index, surrounding_cells
from sasnet_ns.networks.layers import linears, sine_uniform_


class ModulatedSiren(Network):
    """Modulated periodic activations with local codes (Mehta et al., ICCV 2021), "MSIREN".

    The domain has overlapping tiles, each with a latent code z. A ReLU network modulates a SIREN on the coordinates
    inside the tile: ``m_0 = relu(V_0 z)``, ``m_i = relu(V_i [m_{i-1}, z])``, ``h_i = m_i * sin(omega_0 (W_i h_{i-1}))``
    (biases left out here), then an affine output. A point lies in 2^d tiles, whose values are blended linearly.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every layer of both networks.
        hidden_layers: layers after the first.
        latent_dim: size of a code.
        strides: steps between tile centres along each axis; a tile is two of them wide, so 32 steps on 512 pixels are
            tiles of 32 pixels with stride 16. None takes 32, in 3-D 8 and in 4-D 4.
        codes: ``trained`` with the network, as an auto-decoder does, or ``fixed`` random ones, which stand for codes
            computed before (the SASNet paper's timings).
        omega_0: frequency scale of every sine layer.
    """

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        width: int = 256,
        hidden_layers: int = 2,
        latent_dim: int = 64,
        strides: int | None = None,
        codes: Literal["trained", "fixed"] = "trained",
        omega_0: float = 30.0,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.omega_0 = omega_0
        self.strides = strides or {3: 8, 4: 4}.get(in_dim, 32)
        widths = (in_dim, *([width] * (1 + hidden_layers)))
        self.synthesis = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(widths))
        self.output = nn.Linear(width, out_dim)
        first, *others = linears(self.synthesis)
        with torch.no_grad():
            first.weight.uniform_(-1 / in_dim, 1 / in_dim)
        for layer in (*others, self.output):
            sine_uniform_(layer.weight, omega_0)
        inputs = (latent_dim, *([width + latent_dim] * hidden_layers))
        self.modulator = nn.ModuleList(nn.Linear(n_in, width) for n_in in inputs)
        drawn = torch.randn((self.strides + 1) ** in_dim, latent_dim) / math.sqrt(latent_dim)
        if codes == "trained":
            self.codes = nn.Parameter(drawn)
        else:
            self.register_buffer("codes", drawn)

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        inner = name.startswith(("synthesis.", "modulator.")) and not name.startswith("synthesis.0.")
        return "hidden" if inner and parameter.ndim == 2 else "backbone"

    def modulations(self) -> list[Float[Tensor, "codes width"]]:
        """The amplitudes of every layer for every tile."""
        first, *others = linears(self.modulator)
        amplitudes = [torch.relu(first(self.codes))]
        for layer in others:
            amplitudes.append(torch.relu(layer(torch.cat((amplitudes[-1], self.codes), dim=1))))
        return amplitudes

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]."""
        points = x.reshape(-1, self.in_dim).to(self.output.weight.dtype)
        tiles, weights = surrounding_cells(points, self.strides + 1, first=-1.0, last=1.0)
        centers = tiles.to(points.dtype) * (2 / self.strides) - 1
        h = (points[:, None, :] - centers) * (self.strides / 2)
        index = flat_index(tiles, self.strides + 1)
        for layer, amplitude in zip(linears(self.synthesis), self.modulations(), strict=True):
            h = amplitude[index] * torch.sin(self.omega_0 * layer(h))
        return (weights[..., None] * self.output(h)).sum(1).reshape(*x.shape[:-1], self.out_dim)
