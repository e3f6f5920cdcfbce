"""WIRE: complex Gabor wavelets as activations."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from sasnet_ns.networks.base import Network


class ComplexLinear(nn.Module):
    """``W h + b`` with complex W and b, stored as real numbers so that they count and train as such.

    Real and imaginary parts start as U(+-1/sqrt(n_in)), which is what torch's complex ``Linear`` does.

    Args:
        n_in: number of complex inputs.
        n_out: number of complex outputs.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_out, n_in, 2).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out, 2).uniform_(-bound, bound))

    def forward(self, h: Complex[Tensor, "N inner"]) -> Complex[Tensor, "N outer"]:
        """Apply to (N, n_in) complex rows."""
        return nn.functional.linear(h, torch.view_as_complex(self.weight), torch.view_as_complex(self.bias))


class Wire(Network):
    """WIRE (Saragadam et al., CVPR 2023): complex Gabor wavelets ``exp(i omega z - |sigma z|^2)`` with ``z = W h + b``.

    z is real in the first layer and complex afterwards; the output is the real part of an affine layer. The authors
    set omega 20 and sigma 30 for images, 10 and 40 for occupancy; FINER's programs, 20 and 10 for SDFs.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        width: complex neurons of every layer; 181 = 256 / sqrt(2) makes about as many real numbers as a real width of
            256.
        hidden_layers: layers after the first.
        omega: frequency of the wavelet.
        sigma: inverse width of the wavelet.
        coordinate_scale: the network sees the coordinates times this: 0.5 on signed distances, where the box is
            [-0.5, 0.5]^3 in BACON's and FINER's programs.
    """

    def __init__(
        self,
        in_dim: int = 3,
        out_dim: int = 1,
        width: int = 181,
        hidden_layers: int = 2,
        omega: float = 20.0,
        sigma: float = 10.0,
        coordinate_scale: float = 1.0,
    ) -> None:
        super().__init__(in_dim, out_dim)
        self.omega, self.sigma, self.coordinate_scale = omega, sigma, coordinate_scale
        self.first = nn.Linear(in_dim, width)
        self.hidden = nn.ModuleList(ComplexLinear(width, width) for _ in range(hidden_layers))
        self.output = ComplexLinear(width, out_dim)

    def _wavelet(self, z: Tensor) -> Tensor:
        """``exp(i omega z - sigma^2 |z|^2)`` for real or complex z, complex."""
        # Real functions instead of exp and abs of complex numbers: quicker on the CPU, and differentiable at z = 0.
        real, imaginary = (z.real, z.imag) if z.is_complex() else (z, torch.zeros_like(z))
        envelope = torch.exp(-self.omega * imaginary - self.sigma**2 * (real.square() + imaginary.square()))
        phase = self.omega * real
        return torch.complex(envelope * phase.cos(), envelope * phase.sin())

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]; in full precision also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            points = self.coordinate_scale * x.reshape(-1, self.in_dim).to(self.first.weight.dtype)
            h = self._wavelet(self.first(points))
            for layer in self.hidden:
                h = self._wavelet(layer(h))
            return self.output(h).real.reshape(*x.shape[:-1], self.out_dim)
