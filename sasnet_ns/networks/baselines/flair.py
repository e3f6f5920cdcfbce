"""FLAIR: complex activations limited in band and in place."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.wire import ComplexLinear


class BandLocalizedActivation(nn.Module):
    """A raised-cosine pulse in a Gaussian window, shifted in frequency (FLAIR's BLA).

    ``rc(z) exp(-z^2 / (2 sigma^2)) exp(2 pi i zeta z)`` with the impulse response of a raised-cosine filter,
    ``rc(z) = sinc(z / T) / T cos(pi beta z / T) / (1 - (2 beta z / T)^2)``; a value longer than 1 is scaled to 1.
    T (symbol period, which sets the bandwidth), sigma and zeta (the shift) are learned, one of each for a layer.

    Args:
        period: T at the start.
        shift: zeta at the start.
        sigma: width of the window at the start.
        roll_off: beta, fixed.
    """

    def __init__(self, period: float, shift: float, sigma: float, roll_off: float) -> None:
        super().__init__()
        self.period = nn.Parameter(torch.tensor(period))
        self.shift = nn.Parameter(torch.tensor(shift))
        self.sigma = nn.Parameter(torch.tensor(sigma))
        self.roll_off = roll_off

    def forward(self, z: Complex[Tensor, "N width"]) -> Complex[Tensor, "N width"]:
        """Apply to (N, width) complex values."""
        # Real functions throughout: torch's complex ones are several times slower on the CPU.
        a, b = z.real, z.imag
        u, v = math.pi * a / self.period, math.pi * b / self.period
        product = _multiply(_sinc(u, v), _cosine(self.roll_off * u, self.roll_off * v))
        c = (2 * self.roll_off / math.pi) ** 2
        # The 1e-6 of the authors' program keeps the quotient finite where the pulse's own denominator vanishes.
        pulse = _divide(product, (1 + 1e-6 - c * (u * u - v * v), -2 * c * u * v))
        width, shift = self.sigma.square(), 2 * math.pi * self.shift
        size = torch.exp((b * b - a * a) / (2 * width) - shift * b) / self.period
        phase = shift * a - a * b / width
        real, imaginary = _multiply(pulse, (size * phase.cos(), size * phase.sin()))
        # The length by its square: that of a complex zero has no derivative.
        scale = (real * real + imaginary * imaginary).clamp(min=1).rsqrt()
        return torch.complex(scale * real, scale * imaginary)


class Flair(Network):
    """FLAIR (Ko et al., CVPR Findings 2026, arXiv 2508.13544): a network of :class:`BandLocalizedActivation` layers.

    z is real in the first layer and complex afterwards; the output is an affine layer of the last layer's real part.
    The authors set sigma 2 for images and 30 for signed distances, whose box they feed as [-0.5, 0.5]^3.

    Its other half, a map of the image's wavelet energy as one more input (WEGE), is off by default in the authors'
    program, exists for images only and is not here: it hands the network a number for every pixel of the target,
    which no count of parameters shows.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: complex neurons of every layer; 181 = 256 / sqrt(2) makes about as many real numbers as a real width of
            256.
        hidden_layers: layers after the first.
        period: T of every activation at the start.
        shift: zeta of every activation at the start.
        sigma: width of every activation's window at the start.
        roll_off: beta, fixed.
        sigmoid: the output passes a logistic function, as the authors' images do.
        coordinate_scale: the network sees the coordinates times this.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 181,
        hidden_layers: int = 2,
        period: float = 1.0,
        shift: float = 1.0,
        sigma: float = 30.0,
        roll_off: float = 0.05,
        sigmoid: bool = False,
        coordinate_scale: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.sigmoid, self.coordinate_scale = sigmoid, coordinate_scale
        self.first = nn.Linear(in_dim, width)
        self.hidden = nn.ModuleList(ComplexLinear(width, width) for _ in range(hidden_layers))
        self.activations = nn.ModuleList(
            BandLocalizedActivation(period, shift, sigma, roll_off) for _ in range(hidden_layers + 1)
        )
        self.output = nn.Linear(width, out_dim)

    def output_layer(self) -> nn.Linear | None:
        """The last affine layer; None behind a logistic function."""
        return None if self.sigmoid else self.output

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; in full precision also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            points = self.coordinate_scale * x.reshape(-1, self.in_dim).to(self.first.weight.dtype)
            z = self.first(points)
            h = self.activations[0](torch.complex(z, torch.zeros_like(z)))
            for layer, activation in zip(self.hidden, self.activations[1:], strict=True):
                h = activation(layer(h))
            values = self.output(h.real)
            return (values.sigmoid() if self.sigmoid else values).reshape(*x.shape[:-1], self.out_dim)


Pair = tuple[Tensor, Tensor]


def _multiply(p: Pair, q: Pair) -> Pair:
    return p[0] * q[0] - p[1] * q[1], p[0] * q[1] + p[1] * q[0]


def _divide(p: Pair, q: Pair) -> Pair:
    length = (q[0] * q[0] + q[1] * q[1]).reciprocal()
    return (p[0] * q[0] + p[1] * q[1]) * length, (p[1] * q[0] - p[0] * q[1]) * length


def _sine(u: Tensor, v: Tensor) -> Pair:
    return u.sin() * v.cosh(), u.cos() * v.sinh()


def _cosine(u: Tensor, v: Tensor) -> Pair:
    return u.cos() * v.cosh(), -u.sin() * v.sinh()


def _sinc(u: Tensor, v: Tensor) -> Pair:
    """``sin(w) / w`` of ``w = u + i v``, with derivatives of every order at 0."""
    square = _multiply((u, v), (u, v))
    near = square[0].abs() + square[1].abs() < 1e-4
    fourth = _multiply(square, square)
    series = 1 - square[0] / 6 + fourth[0] / 120, -square[1] / 6 + fourth[1] / 120
    away = _divide(_sine(u, v), (torch.where(near, 1.0, u), v))
    return torch.where(near, series[0], away[0]), torch.where(near, series[1], away[1])
