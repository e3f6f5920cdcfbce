"""What sinusoidal networks share: SIREN's initialisation, typed access to linear layers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sine_uniform_(weight: Float[Tensor, "out inner"], omega_0: float) -> None:
    """Initialise a weight in place with U(+-sqrt(6 / fan_in) / omega_0) (SIREN, Sec. 3.2)."""
    bound = math.sqrt(6 / weight.shape[1]) / omega_0
    with torch.no_grad():
        weight.uniform_(-bound, bound)


def linears(layers: nn.ModuleList) -> list[nn.Linear]:
    """The linear layers of a list, typed as such."""
    return [layer for layer in layers if isinstance(layer, nn.Linear)]
