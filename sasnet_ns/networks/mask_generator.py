"""The hash-grid MLP that predicts every mask of a SASNet at once (SASNet, Sec. 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid, mask_decoder


class MaskGenerator(nn.Module):
    """Multi-resolution hash grid, then Linear, ReLU, Linear, sigmoid.

    Args:
        layout: the hash grid's levels and tables.
        masks: number of masks M.
        width: hidden width of the decoder.
        feature_std: standard deviation of the initial features; small, so that masks start near 0.5.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.hash_grid`.
    """

    def __init__(
        self,
        layout: HashGridLayout,
        masks: int,
        width: int = 48,
        feature_std: float = 0.01,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.layout = layout
        self.implementation = implementation
        self.table = nn.Parameter(torch.randn(layout.total_entries, layout.feature_dim) * feature_std)
        self.decoder_in = nn.Linear(len(layout.resolutions) * layout.feature_dim, width)
        self.decoder_out = nn.Linear(width, masks)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N M"]:
        """Masks in [0, 1] at (N, d) coordinates in [-1, 1]."""
        features = hash_grid(x, self.table, self.layout, implementation=self.implementation)
        first, second = self.decoder_in, self.decoder_out
        return mask_decoder(features, first.weight, first.bias, second.weight, second.bias, self.implementation)
