"""PEMLP: a ReLU network on positional encodings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.networks.baselines.encoded_relu import EncodedReLU


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
        coordinate_scale: the network sees the coordinates times this: 0.5 on signed distances, where the box is
            [-0.5, 0.5]^3 in BACON's and FINER's programs.
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
        coordinate_scale: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim, in_dim * (2 * octaves + include_input), width, hidden_layers)
        self.include_input, self.coordinate_scale = include_input, coordinate_scale
        self.register_buffer("frequencies", base * 2.0 ** torch.arange(octaves))

    def encode(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """The encoding, frequency by frequency from low to high: sines of all coordinates, then cosines."""
        x = self.coordinate_scale * x
        phase = self.frequencies[:, None] * x[:, None, :]
        waves = torch.stack((phase.sin(), phase.cos()), dim=2).flatten(1)
        return torch.cat((x, waves), dim=1) if self.include_input else waves
