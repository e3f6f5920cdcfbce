"""The hash-grid MLP that predicts every mask of a SASNet at once (SASNet, Sec. 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid, mask_decoder
from sasnet_ns.networks.wisp_grid import wisp_grid


class MaskGenerator(nn.Module):
    """Multi-resolution hash grid, then Linear, ReLU, Linear, sigmoid.

    Args:
        layout: the hash grid's levels and tables.
        masks: number of masks M.
        width: hidden width of the decoder.
        feature_std: standard deviation of the initial features; small, so that masks start near 0.5.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.hash_grid`.
        wisp: compute the grid as the authors' library, see :func:`sasnet_ns.networks.wisp_grid.wisp_grid`.
    """

    def __init__(
        self,
        layout: HashGridLayout,
        masks: int,
        width: int = 48,
        feature_std: float = 0.01,
        implementation: Implementation = "auto",
        wisp: bool = False,
    ) -> None:
        super().__init__()
        if wisp and layout.interpolation != "linear":
            raise ValueError("the authors' hash grid interpolates linearly: leave grid_interpolation at linear.")
        self.layout, self.wisp = layout, wisp
        self.implementation = implementation
        self.table = nn.Parameter(torch.randn(layout.total_entries, layout.feature_dim) * feature_std)
        self.decoder_in = nn.Linear(len(layout.resolutions) * layout.feature_dim, width)
        self.decoder_out = nn.Linear(width, masks)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N M"]:
        """Masks in [0, 1] at (N, d) coordinates in [-1, 1]."""
        grid = wisp_grid if self.wisp else hash_grid
        features = grid(x, self.table, self.layout, implementation=self.implementation)
        first, second = self.decoder_in, self.decoder_out
        features = features.to(first.weight.dtype)  # of half precision, of which grids make float32
        return mask_decoder(features, first.weight, first.bias, second.weight, second.bias, self.implementation)
