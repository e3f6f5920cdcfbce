"""ReLU networks on a fixed encoding of the coordinates: NeRF's octaves and random Fourier features."""

from __future__ import annotations

import abc
import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network, ParameterRole


class EncodedReLU(Network, abc.ABC):
    """A ReLU network on an encoding; torch's default initialisation, affine output.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        encoding_dim: number of encoded features E.
        width: neurons of every hidden layer.
        hidden_layers: hidden layers after the first.
    """

    def __init__(self, in_dim: int, out_dim: int, encoding_dim: int, width: int, hidden_layers: int) -> None:
        super().__init__(in_dim, out_dim)
        self.encoding_dim = encoding_dim
        widths = (encoding_dim, *([width] * (1 + hidden_layers)))
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(width, out_dim)

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "hidden" if name.startswith("layers.") and parameter.ndim == 2 else "backbone"

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """The encoding of (N, in_dim) coordinates in [-1, 1]."""

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; the encoding stays in the weights' precision."""
        with torch.autocast(x.device.type, enabled=False):
            features = self.encode(x.reshape(-1, self.in_dim).to(self.output.weight.dtype))
        return self.output(self.layers(features)).reshape(*x.shape[:-1], self.out_dim)


class PEMLP(EncodedReLU):
    """A ReLU network on NeRF's positional encoding (Mildenhall et al., ECCV 2020, Eq. 4).

    The encoding is ``[x, sin(2^0 x), cos(2^0 x), ..., sin(2^(L-1) x), cos(2^(L-1) x)]``, for all coordinates.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: neurons of every hidden layer.
        hidden_layers: hidden layers after the first.
        octaves: L, number of frequencies.
        base: the lowest frequency in radians per coordinate unit: 1 as in the published NeRF and FINER programs, pi in
            the equation of NeRF's paper.
        include_input: whether the coordinates themselves are part of the encoding.
    """

    frequencies: Tensor

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 256,
        hidden_layers: int = 2,
        octaves: int = 10,
        base: float = 1.0,
        include_input: bool = True,
    ) -> None:
        super().__init__(in_dim, out_dim, in_dim * (2 * octaves + include_input), width, hidden_layers)
        self.include_input = include_input
        self.register_buffer("frequencies", base * 2.0 ** torch.arange(octaves))

    def encode(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """The encoding, frequency by frequency from low to high: sines of all coordinates, then cosines."""
        phase = self.frequencies[:, None] * x[:, None, :]
        waves = torch.stack((phase.sin(), phase.cos()), dim=2).flatten(1)
        return torch.cat((x, waves), dim=1) if self.include_input else waves


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
