"""GaussianImage: an image as a sum of 2-D Gaussians, rendered tile by tile."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.gaussians import gaussian_sum
from sasnet_ns.networks.base import Network


class GaussianImage(Network):
    """A sum of anisotropic Gaussians without order or opacity (Zhang et al., ECCV 2024, Eqs. 3 and 8).

    ``f(x) = clamp(sum_n c_n exp(-|L_n^-1 (x - tanh(p_n))|^2 / 2), 0, 1)``, weights below 1/255 left out. L is lower
    triangular, in pixels; 0.5 is added to the diagonal's two parameters. Initial values: positions uniform over the
    image, colours and Cholesky parameters uniform in [0, 1]. A Gaussian has 5 + out_dim parameters.

    The gradient with respect to the coordinates does not see the jumps that the cut leaves at the Gaussians' borders;
    the SASNet paper gives no noisiness for this method.

    Args:
        in_dim: number of coordinates, 2.
        out_dim: number of output channels.
        gaussians: number of Gaussians.
        pixels: rows and columns of the image, whose pixel is the unit of L; :meth:`initialize_from` sets them to the
            signal's.
        tile: side of a tile in pixels; affects speed and memory alone.
        implementation: ``auto``, ``torch`` or ``numba``, see :func:`sasnet_ns.kernels.gaussians.gaussian_sum`.

    Raises:
        ValueError: ``in_dim`` is not 2.
    """

    pixels: Tensor
    output_range: Tensor
    implementation: Implementation = "auto"  # of whole modules pickled before there was a choice

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        gaussians: int = 16_640,
        pixels: tuple[int, int] = (512, 512),
        tile: int = 8,
        implementation: Implementation = "auto",
    ) -> None:
        if in_dim != 2:
            raise ValueError(f"GaussianImage is for images, with 2 coordinates, got {in_dim}.")
        super().__init__(in_dim, out_dim)
        self.tile, self.implementation = tile, implementation
        self.position = nn.Parameter(torch.atanh(torch.rand(gaussians, 2) * 2 - 1))
        self.cholesky = nn.Parameter(torch.rand(gaussians, 3))
        self.color = nn.Parameter(torch.rand(gaussians, out_dim))
        self.register_buffer("pixels", torch.tensor(pixels, dtype=torch.float32))
        self.register_buffer("output_range", torch.tensor([0.0, 1.0]))

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Take the pixel from the signal, and its range of values: [-1, 1] if some are negative, otherwise [0, 1]."""
        self.pixels.copy_(torch.tensor(signal.shape[:2]))
        self.output_range[0] = -1.0 if bool((signal < 0).any()) else 0.0

    def gaussians(self) -> tuple[Float[Tensor, "G 2"], Float[Tensor, "G 3"]]:
        """Centres in pixels from the corner of the image, (row, column), and the entries l_11, l_21, l_22 of L."""
        center = (torch.tanh(self.position) + 1) / 2 * self.pixels
        return center, self.cholesky + self.cholesky.new_tensor([0.5, 0.0, 0.5])

    def forward(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., 2) coordinates in [-1, 1], (row, column)."""
        points = (x.reshape(-1, 2).to(self.position.dtype) + 1) / 2 * self.pixels
        center, cholesky = self.gaussians()
        total = gaussian_sum(points, center, cholesky, self.color, self.tile, self.implementation)
        low, high = self.output_range
        return (low + (high - low) * total.clamp(0, 1)).reshape(*x.shape[:-1], self.out_dim)
