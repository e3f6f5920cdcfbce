"""FFN: a ReLU network on random Fourier features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.baselines.encoded_relu import EncodedReLU


def fourier_frequencies(
    count: int, in_dim: int, scale: float, law: Literal["normal", "radial"]
) -> Float[Tensor, "count d"]:
    """Random frequencies, from low to high.

    Args:
        count: how many.
        in_dim: number of coordinates.
        scale: standard deviation, cycles per coordinate unit.
        law: ``normal``: every component is N(0, scale^2) (Tancik et al. 2020). ``radial``: a uniformly random direction
            times a magnitude N(0, scale^2) (Hertz et al. 2021), which favours low frequencies.
    """
    if law == "normal":
        drawn = torch.randn(count, in_dim) * scale
        return drawn[drawn.norm(dim=1).argsort()]
    magnitude = torch.randn(count) * scale
    magnitude = magnitude[magnitude.abs().argsort()]
    return nn.functional.normalize(torch.randn(count, in_dim), dim=1) * magnitude[:, None]


class FFN(EncodedReLU):
    """A ReLU network on random Fourier features (Tancik et al., NeurIPS 2020, Eq. 5).

    The encoding is ``[sin(2 pi b_1 x), cos(2 pi b_1 x), ...]`` with frozen random frequencies b. The defaults are
    Tancik's for images: 256 frequencies of standard deviation 10 per image side, which is 5 per unit of [-1, 1]. The
    SASNet paper runs the variant of the SAPE program: ``frequency_law="radial", frequency_scale=20``.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every hidden layer.
        hidden_layers: hidden layers after the first.
        frequencies: number of frequencies; the encoding has two features for each.
        frequency_scale: standard deviation of the frequencies, cycles per coordinate unit.
        frequency_law: see :func:`fourier_frequencies`.
    """

    frequencies: Tensor

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 256,
        hidden_layers: int = 2,
        frequencies: int = 256,
        frequency_scale: float = 5.0,
        frequency_law: Literal["normal", "radial"] = "normal",
    ) -> None:
        super().__init__(in_dim, out_dim, 2 * frequencies, width, hidden_layers)
        self.register_buffer("frequencies", fourier_frequencies(frequencies, in_dim, frequency_scale, frequency_law))

    def encode(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """Sine and cosine of every frequency in turn, from low to high."""
        phase = 2 * math.pi * x @ self.frequencies.T
        return torch.stack((phase.sin(), phase.cos()), dim=2).flatten(1)
