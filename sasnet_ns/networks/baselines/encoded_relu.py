"""ReLU networks on an encoding of the coordinates: what PEMLP, FFN and SAPE share."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable

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

    def encoder(self) -> Callable[[Float[Tensor, "N d"]], Float[Tensor, "N E"]]:
        """The encoding without a graph, as fast as it can be had, for a loop that may show the same points again."""
        return torch.no_grad()(self.encode)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; the encoding stays in the weights' precision."""
        with torch.autocast(x.device.type, enabled=False):
            features = self.encode(x.reshape(-1, self.in_dim).to(self.output.weight.dtype))
        return self.output(self.layers(features)).reshape(*x.shape[:-1], self.out_dim)
