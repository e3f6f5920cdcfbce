"""CAFE+: products of Fourier and Chebyshev features."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.ffn import fourier_frequencies


class Cafe(Network):
    """CAFE+ (Ke et al., CVPR 2026, arXiv 2603.01028): affine maps of the features, multiplied with each other.

    Features are the sines and cosines of ``2 pi B x`` with a frozen normal B, and the Chebyshev polynomials of every
    coordinate. ``branches`` affine maps of them are multiplied value by value, which makes sums and differences of the
    frequencies; ReLU layers and an affine layer follow.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: values of the product, and neurons of every ReLU layer; as many as there are features in the authors'
            program (236 for images).
        hidden_layers: ReLU layers.
        frequencies: rows of B.
        frequency_scale: standard deviation of B, cycles per coordinate unit.
        polynomials: Chebyshev polynomials of each coordinate, the constant one among them.
        branches: number of factors.
    """

    frequencies: Tensor

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        width: int = 236,
        hidden_layers: int = 1,
        frequencies: int = 88,
        frequency_scale: float = 30.0,
        polynomials: int = 30,
        branches: int = 3,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.register_buffer("frequencies", fourier_frequencies(frequencies, in_dim, frequency_scale, "normal"))
        self.polynomials = polynomials
        features = 2 * frequencies + in_dim * polynomials
        self.branches = nn.ModuleList(nn.Linear(features, width) for _ in range(branches))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden_layers))
        self.output = nn.Linear(width, out_dim)

    def encode(self, points: Float[Tensor, "N d"]) -> Float[Tensor, "N features"]:
        """Sines, cosines, then the polynomials of the first coordinate, of the second and so on."""
        angles = 2 * math.pi * points @ self.frequencies.T
        terms = [torch.ones_like(points), points]
        while len(terms) < self.polynomials:
            terms.append(2 * points * terms[-1] - terms[-2])
        chebyshev = torch.stack(terms[: self.polynomials], dim=-1).flatten(1)
        return torch.cat([angles.sin(), angles.cos(), chebyshev], dim=-1)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]."""
        with torch.autocast(x.device.type, enabled=False):  # phases reach hundreds of radians
            features = self.encode(x.reshape(-1, self.in_dim).to(self.output.weight.dtype))
        h = self.branches[0](features)
        for branch in self.branches[1:]:
            h = h * branch(features)
        for layer in self.hidden:
            h = torch.relu(layer(h))
        return self.output(h).reshape(*x.shape[:-1], self.out_dim)
