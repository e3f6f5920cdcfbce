"""Theorem 1 of SASNet in numbers: a sine of sines as a sum of sines with Bessel amplitudes.

For weights w_l, a bias b and any y_l (SASNet, Eq. 5; Novello et al. 2024):

    sin(sum_l w_l sin(y_l) + b) = sum_k alpha_k sin(<k, y> + b),   alpha_k = prod_l J_{k_l}(w_l),   k in Z^n

so the frequencies of a hidden layer are integer combinations of those of the layer before, whatever the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.layers import linears
from sasnet_ns.networks.sasnet import SASNet


@dataclass(frozen=True)
class SineSeries:
    """``f(x) = offset + sum_t amplitudes_t sin(<frequencies_t, x> + phases_t)``.

    Attributes:
        frequencies: (T, d), radians per unit of x.
        phases: (T,), radians.
        amplitudes: (T, C).
        offset: (C,).
        error_bound: (C,) largest possible sum of all the terms that were left out.
    """

    frequencies: Float[Tensor, "T d"]
    phases: Float[Tensor, "T"]
    amplitudes: Float[Tensor, "T C"]
    offset: Float[Tensor, "C"]
    error_bound: Float[Tensor, "C"]

    def __call__(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch C"]:
        """Values at (..., d) points."""
        return torch.sin(x @ self.frequencies.T + self.phases) @ self.amplitudes + self.offset


def expand_neuron(
    weights: Float[Tensor, "n"], tolerance: float = 1e-8, max_terms: int = 300_000
) -> tuple[Int[Tensor, "T n"], Float[Tensor, "T"], float]:
    """The terms of Theorem 1 for one neuron, in double precision.

    Args:
        weights: (n,) the neuron's weights w (times omega_0, where a network has one).
        tolerance: terms with a smaller amplitude are left out.
        max_terms: largest number of terms to hold.

    Returns:
        Integer vectors k (T, n), their amplitudes alpha (T,), from large to small, and a bound on the sum of what is
        left out: the sum of all amplitudes' magnitudes, which is a product over the inputs, less that of the kept ones.

    Raises:
        ValueError: more terms than ``max_terms`` are needed.
    """
    from scipy.special import jv

    vectors, amplitudes = np.zeros((1, 0), dtype=np.int64), np.ones(1)
    total = 1.0
    for weight in weights.detach().cpu().double().tolist():
        # |J_k(w)| <= (|w| / 2)^k / k!: this order is far beyond anything that counts in double precision.
        order = int(abs(weight)) * 2 + 30
        k = np.arange(-order, order + 1)
        bessel = jv(k, weight)
        total *= float(np.abs(bessel).sum())
        product = amplitudes[:, None] * bessel
        keep = np.abs(product) >= tolerance
        if int(keep.sum()) > max_terms:
            raise ValueError(
                f"the expansion needs more than {max_terms:,} terms at a tolerance of {tolerance:g}; "
                "raise the tolerance or expand a narrower network."
            )
        term, index = keep.nonzero()
        vectors = np.concatenate([vectors[term], k[index, None]], axis=1)
        amplitudes = product[keep]
    largest_first = np.argsort(-np.abs(amplitudes), kind="stable")
    left_out = max(0.0, total - float(np.abs(amplitudes).sum()))
    return torch.from_numpy(vectors[largest_first]), torch.from_numpy(amplitudes[largest_first]), left_out


def expand_network(network: Network, tolerance: float = 1e-8, max_terms: int = 300_000) -> SineSeries:
    """A network with one hidden sine layer as an explicit sum of sines of the coordinates, in double precision.

    Args:
        network: a SIREN with ``hidden_layers=1``, or a SASNet with ``masks=False`` and one hidden layer
            (``groups=(0,)``).
        tolerance: terms of a neuron with a smaller amplitude are left out.
        max_terms: largest number of terms of a neuron.

    Raises:
        ValueError: another kind or depth of network, or too many terms.
    """
    first_frequencies, first_phases, omega_0 = _first_layer(network)
    layer = linears(network.hidden)[0]  # type: ignore[arg-type]
    output: torch.nn.Linear = network.output  # type: ignore[assignment]
    frequencies, phases, amplitudes = [], [], []
    bound = torch.zeros(network.out_dim, dtype=torch.float64)
    read_out = output.weight.detach().cpu().double()
    for j in range(layer.out_features):
        k, alpha, left_out = expand_neuron(omega_0 * layer.weight[j].detach().cpu().double(), tolerance, max_terms)
        bias = omega_0 * float(layer.bias[j].detach().double())
        frequencies.append(k.double() @ first_frequencies)
        phases.append(k.double() @ first_phases + bias)
        amplitudes.append(alpha[:, None] * read_out[:, j])
        bound += left_out * read_out[:, j].abs()
    return SineSeries(
        torch.cat(frequencies), torch.cat(phases), torch.cat(amplitudes), output.bias.detach().cpu().double(), bound
    )


def _first_layer(network: Network) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"], float]:
    """Frequencies and phases of the first layer, radians, and the hidden layer's omega_0."""
    stretched = 1.0
    if type(network) is Siren and len(network.hidden) == 1:
        weight, bias, omega_0 = network.first.weight, network.first.bias, network.omega_0
        scale, stretched = omega_0, network.coordinate_scale
    elif isinstance(network, SASNet) and network.mask_generator is None and len(network.hidden) == 1:
        weight, bias, omega_0 = network.frequencies, network.phase, network.config.omega_0
        scale = 1.0 if network.config.embedding == "frozen" else omega_0
    else:
        raise ValueError("only a SIREN or a SASNet without masks, with one hidden layer, is expanded here.")
    return stretched * scale * weight.detach().cpu().double(), scale * bias.detach().cpu().double(), omega_0


def _steps(values: Float[Tensor, "N"], apart: float) -> Int[Tensor, "N"]:
    """How many gaps wider than ``apart`` lie below each value: the same number for those that are close."""
    ordered, order = values.sort()
    steps = torch.zeros(len(values), dtype=torch.int64)
    steps[order[1:]] = (ordered.diff() > apart).cumsum(0)
    return steps


def merge_frequencies(series: SineSeries) -> SineSeries:
    """The same series with equal and opposite frequencies brought together.

    Frequencies count as equal where they agree to 1e-5 cycles per unit, as the integer combinations of a frozen
    embedding do, which has them in single precision. Every frequency comes twice: all sines first (phase 0), then all
    cosines (phase pi/2).
    """
    apart = 2 * math.pi * 1e-5
    leading = torch.where(series.frequencies.abs() > apart, series.frequencies.sign(), 0.0)
    first = (leading != 0).double().argmax(1)
    sign = torch.gather(leading, 1, first[:, None])[:, 0]
    sign = torch.where(sign == 0, 1.0, sign)
    frequencies = series.frequencies * sign[:, None]
    phases = series.phases * sign
    amplitudes = series.amplitudes * sign[:, None]
    places = torch.stack([_steps(column, apart) for column in frequencies.T], 1)
    unique, group = places.unique(dim=0, return_inverse=True)
    sine = torch.zeros(len(unique), amplitudes.shape[1], dtype=torch.float64)
    cosine = sine.clone()
    sine.index_add_(0, group, amplitudes * phases.cos()[:, None])
    cosine.index_add_(0, group, amplitudes * phases.sin()[:, None])
    merged = torch.zeros(len(unique), frequencies.shape[1], dtype=torch.float64)
    merged[group] = frequencies
    quarter = torch.full((len(unique),), math.pi / 2, dtype=torch.float64)
    return SineSeries(
        torch.cat((merged, merged)),
        torch.cat((torch.zeros_like(quarter), quarter)),
        torch.cat((sine, cosine)),
        series.offset,
        series.error_bound,
    )
