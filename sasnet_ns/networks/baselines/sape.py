"""SAPE: Fourier features that open progressively, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sasnet_ns.kernels._choose import transformed
from sasnet_ns.networks.baselines.encoded_relu import EncodedReLU
from sasnet_ns.networks.baselines.ffn import fourier_frequencies
from sasnet_ns.networks.interpolation import flat_index, surrounding_cells

_BLUR = 5  # width of the box filter on masks and errors, in cells, as in the authors' program


class SAPE(EncodedReLU):
    """Spatially adaptive progressive encoding (Hertz et al., NeurIPS 2021).

    The encoding is the coordinates and random Fourier features sorted by frequency, each multiplied by a mask on a grid
    of cells. Training starts from the coordinates alone; over the first half of the run, blocks of ``in_dim`` features
    open one after the other, ramping up in the first half of their interval. A cell whose mean error over an interval
    falls to ``epsilon`` opens no further block. Masks are blurred over 5 cells and interpolated linearly.

    The masks follow the training loop's :meth:`on_step`; without it only the coordinates stay open. They are part of
    the state, not of the parameters.

    Args:
        in_dim: number of coordinates, 1 to 3.
        out_dim: number of output channels.
        width: neurons of every hidden layer.
        hidden_layers: hidden layers after the first.
        frequencies: number of frequencies; the encoding has two features for each.
        frequency_scale: standard deviation of the frequencies' magnitude, cycles per coordinate unit.
        resolution: cells along each axis; None takes the authors' 128 in 1-D and 2-D and, for memory, 32 in 3-D (theirs
            is 64).
        epsilon: mean squared error, of values in [0, 1], at which a cell opens no further block; four times as much
            for a signal in [-1, 1], which :meth:`initialize_from` recognises by its negative values.

    Raises:
        ValueError: ``in_dim`` is above 3, where the grid of masks does not fit into memory.
    """

    frequencies: Tensor
    open_blocks: Tensor
    in_progress: Tensor
    error_sum: Tensor
    error_weight: Tensor
    value_scale: Tensor

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        width: int = 256,
        hidden_layers: int = 2,
        frequencies: int = 256,
        frequency_scale: float = 20.0,
        resolution: int | None = None,
        epsilon: float = 1e-3,
    ) -> None:
        if not 1 <= in_dim <= 3:
            raise ValueError(f"SAPE keeps its masks on a dense grid and is for 1 to 3 coordinates, got {in_dim}.")
        super().__init__(in_dim, out_dim, in_dim + 2 * frequencies, width, hidden_layers)
        self.resolution = resolution or (32 if in_dim == 3 else 128)
        self.epsilon = epsilon
        self.blocks = math.ceil(2 * frequencies / in_dim)
        self.register_buffer("frequencies", fourier_frequencies(frequencies, in_dim, frequency_scale, "radial"))
        cells = self.resolution**in_dim
        self.register_buffer("open_blocks", torch.zeros(cells))
        self.register_buffer("in_progress", torch.ones(cells, dtype=torch.bool))
        self.register_buffer("error_sum", torch.zeros(cells))
        self.register_buffer("error_weight", torch.zeros(cells))
        self.register_buffer("value_scale", torch.ones(()))
        self._table: tuple[Tensor, int, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}  # a copy's tensors count their changes anew

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Learn from the signal whether its values are in [0, 1] or in [-1, 1]."""
        self.value_scale.fill_(2.0 if bool((signal < 0).any()) else 1.0)

    def encode(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        """The coordinates, then sine and cosine of every frequency from low to high, times their masks."""
        phase = 2 * math.pi * x @ self.frequencies.T
        waves = torch.stack((phase.sin(), phase.cos()), dim=2).flatten(1)
        return torch.cat((x, waves * self.masks(x)), dim=1)

    def encoder(self) -> Callable[[Float[Tensor, "N d"]], Float[Tensor, "N E"]]:
        """See :meth:`EncodedReLU.encoder`."""
        return _Encoder(self)

    def masks(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """Masks in [0, 1] of the Fourier features (the coordinates' own mask is 1).

        Args:
            x: (..., in_dim) coordinates in [-1, 1].

        Returns:
            (..., 2 * frequencies), from low to high frequency.
        """
        opened = self._opened(x.reshape(-1, self.in_dim))
        features = opened.repeat_interleave(self.in_dim, dim=1)[:, : self.encoding_dim - self.in_dim]
        return features.reshape(*x.shape[:-1], features.shape[1])

    def _opened(self, points: Float[Tensor, "N d"]) -> Float[Tensor, "N blocks"]:
        """Mask of each block of features."""
        index, weights = self._cells(points)
        table = self._blurred_masks()
        # One pass, which cannot be differentiated twice, nor forward.
        if not (weights.requires_grad or transformed(weights)):
            return _weighted_rows(table, index, weights)
        opened = table.new_zeros(points.shape[0], self.blocks)
        for corner in range(index.shape[1]):
            opened = opened + weights[:, corner, None] * table[index[:, corner]]
        return opened

    def _cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        border = 1 - 1 / self.resolution
        cells, weights = surrounding_cells(points, self.resolution, first=-border, last=border)
        return flat_index(cells, self.resolution), weights

    def _blurred_masks(self) -> Float[Tensor, "cells blocks"]:
        """Mask of every block in every cell; kept until the state changes."""
        state, version = self.open_blocks, self.open_blocks._version
        if self._table is None or self._table[0] is not state or self._table[1] != version:
            block = torch.arange(self.blocks, device=state.device)
            masks = (state - block[:, None]).clamp(0, 1)
            self._table = (state, version, self._blur(masks).T.contiguous())
        return self._table[2]

    def _blur(self, values: Float[Tensor, "channels cells"]) -> Float[Tensor, "channels cells"]:
        """A box filter with replicated borders, one axis at a time."""
        grid = values.reshape(-1, *([self.resolution] * self.in_dim))
        reach = _BLUR // 2
        for axis in range(1, grid.ndim):
            first, last = grid.narrow(axis, 0, 1), grid.narrow(axis, self.resolution - 1, 1)
            padded = torch.cat((*([first] * reach), grid, *([last] * reach)), dim=axis)
            grid = padded.unfold(axis, _BLUR, 1).mean(-1)
        return grid.reshape(values.shape)

    @torch.no_grad()
    def on_step(self, step: int, steps: int, x: Float[Tensor, "N d"], error: Float[Tensor, "N"]) -> None:
        """Record the errors and open features, see :meth:`Network.on_step`."""
        before, now = (min(self.blocks, 2 * self.blocks * s / steps) for s in (step - 1, step))
        if before >= self.blocks:
            return
        index, weights = self._cells(x.to(self.error_sum.dtype))
        self.error_sum.index_add_(0, index.flatten(), (weights * error[:, None]).flatten())
        self.error_weight.index_add_(0, index.flatten(), weights.flatten())
        if math.floor(now) > math.floor(before):
            self._freeze_fitted_cells()
        ramp = min(1.0, 2 * (now - math.floor(now)))
        self.open_blocks[self.in_progress] = math.floor(now) + ramp

    def _freeze_fitted_cells(self) -> None:
        """End an interval: complete its block, and stop where the mean error is small enough."""
        seen = self.error_weight > 0
        mean = torch.where(seen, self.error_sum / self.error_weight.clamp(min=1e-12), self._mean_error())
        fitted = self._blur(mean[None])[0] <= self.epsilon * self.value_scale.square()
        self.open_blocks[self.in_progress] = self.open_blocks[self.in_progress].ceil()
        self.in_progress &= ~fitted
        self.error_sum.zero_()
        self.error_weight.zero_()

    def _mean_error(self) -> Tensor:
        """Stands in where a batch touched no cell."""
        return self.error_sum.sum() / self.error_weight.sum().clamp(min=1e-12)


def _weighted_rows(
    table: Float[Tensor, "rows C"], index: Int[Tensor, "N corners"], weights: Float[Tensor, "N corners"]
) -> Float[Tensor, "N C"]:
    return nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


class _Encoder:
    """SAPE's encoding in memory that is written once, because that is what it costs.

    Of points that come again it keeps the waves while masks open, and the features for as long as no mask changes: in
    all of the second half of a run. What it returns is valid until the next call.
    """

    _features: Tensor
    _cells: tuple[Tensor, Tensor]

    def __init__(self, network: SAPE) -> None:
        self._network = network
        self._seen: tuple[Tensor, int, Tensor, int] | None = None
        self._table: Tensor | None = None
        self._waves: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N E"]:
        if x.is_inference():  # changes of such a tensor cannot be told
            return self._network.encode(x)
        network, frequencies, table = self._network, self._network.frequencies, self._network._blurred_masks()
        now, seen = (x, x._version, frequencies, frequencies._version), self._seen
        again = seen is not None and seen[0] is x and seen[2] is frequencies and seen[1::2] == now[1::2]
        if again and table is self._table:
            self._waves = None
            return self._features
        self._seen = None  # an interrupted call leaves nothing to go on from
        if not again:
            self._waves, self._cells = None, network._cells(x)
            self._features = torch.cat((x, x.new_empty(len(x), network.encoding_dim - network.in_dim)), dim=1)
        features, waves = self._features[:, network.in_dim :], self._waves
        if waves is None:
            waves = torch.empty_like(features) if again else features
            phase = 2 * math.pi * x @ frequencies.T
            torch.sin(phase, out=waves[:, 0::2])
            torch.cos(phase, out=waves[:, 1::2])
        opened = _weighted_rows(table, *self._cells)
        for member in range(network.in_dim):
            part = features[:, member :: network.in_dim]
            torch.mul(waves[:, member :: network.in_dim], opened[:, : part.shape[1]], out=part)
        self._waves = waves if again else None
        self._table, self._seen = table, now
        return self._features
