"""Which frequencies a network starts from, and which are in a signal."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.ffn import FFN
from sasnet_ns.networks.baselines.finer import Finer
from sasnet_ns.networks.baselines.pemlp import PEMLP
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.baselines.wire import Wire
from sasnet_ns.networks.sasnet import SASNet


def input_frequencies(network: Network) -> Float[Tensor, "F d"]:
    """The frequencies of a network's first layer, before or after training.

    A SIREN's follow its trained weights, ``omega_0 W / 2 pi``; FINER's are those at small arguments; a SASNet's are
    frozen (but for ``embedding="siren"``); an encoding's are its own.

    Args:
        network: siren, finer, wire, sasnet, ffn, sape or pemlp.

    Returns:
        (F, in_dim), cycles per two coordinate units, which is per side of the domain [-1, 1].

    Raises:
        ValueError: the network's first layer has no frequencies.
    """
    if isinstance(network, SASNet):
        scale = 1.0 if network.config.embedding == "frozen" else network.config.omega_0
        radians = scale * network.frequencies
    elif isinstance(network, Siren) and type(network) in (Siren, Finer):
        radians = network.omega_0 * network.first.weight
    elif isinstance(network, Wire):
        radians = network.omega * network.first.weight
    elif isinstance(network, FFN | SAPE):
        radians = 2 * math.pi * network.frequencies
    elif isinstance(network, PEMLP):
        axes = torch.eye(network.in_dim, device=network.frequencies.device)
        radians = (network.frequencies[:, None, None] * axes).flatten(0, 1)
    else:
        raise ValueError(f"the first layer of a {type(network).__name__} has no frequencies.")
    return getattr(network, "coordinate_scale", 1.0) * radians.detach().cpu() / math.pi


def radial_spectrum(values: Float[Tensor, "*grid"]) -> tuple[Float[Tensor, "R"], Float[Tensor, "R"]]:
    """Root mean square amplitude of a signal by the length of the frequency.

    Args:
        values: (n_1, ..., n_d) samples on a regular grid over one period of every axis (:math:`[-1, 1]`).

    Returns:
        Lengths (R,) in whole cycles per side, from 0 to the smallest axis' Nyquist frequency, and amplitudes (R,): a
        sinusoid of amplitude a puts a/2 on each of its two lines, and every ring averages over its lines.
    """
    values = values.double()
    lines = torch.fft.fftn(values).abs() / values.numel()
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in values.shape]
    length = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    ring = length.round().long().flatten()
    top = min(values.shape) // 2
    kept = ring <= top
    power = torch.bincount(ring[kept], lines.flatten()[kept].square(), minlength=top + 1)
    count = torch.bincount(ring[kept], minlength=top + 1)
    return torch.arange(top + 1, dtype=torch.float64), (power / count.clamp(min=1)).sqrt()
