"""A network fitted to a regular grid of values: evaluated between the samples, saved, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.fitting.signal import CoordinateGrid, Signal, axis_coordinates, grid_coordinates
from sasnet_ns.networks import build_network, network_values
from sasnet_ns.networks.weights import plain_numbers, read_weights, save_weights

TargetRange = Literal["symmetric", "unit"]
"""What the network's output stands for: [-1, 1] or [0, 1]."""


class GridField(nn.Module):
    """Values in [0, 1] at coordinates in [-1, 1]: a network, and what it takes to put a file's values back.

    Every axis spans [-1, 1], whatever its number of samples.

    Args:
        grid: samples along each axis.
        channels: values at each.
        network: registry name.
        network_config: options for :func:`sasnet_ns.networks.build_network`.
        coordinates: where samples lie, see :data:`CoordinateGrid`.
        target_range: what the network's output stands for.
        name: of the signal.
        low: the source's own value at 0.
        high: the source's own value at 1.
        bits: of the integers in the source; 0 for anything else.
        spacing: size of a cell along each axis, in the source's units.
    """

    def __init__(
        self,
        grid: Sequence[int],
        channels: int,
        network: str = "sasnet",
        network_config: dict[str, Any] | None = None,
        coordinates: CoordinateGrid = "centers",
        target_range: TargetRange = "symmetric",
        name: str = "",
        low: float = 0.0,
        high: float = 1.0,
        bits: int = 0,
        spacing: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.description = {
            "grid": list(grid),
            "channels": channels,
            "network": network,
            "network_config": plain_numbers(dict(network_config or {})),
            "coordinates": coordinates,
            "target_range": target_range,
            "name": name,
            "low": low,
            "high": high,
            "bits": bits,
            "spacing": list(spacing),
        }
        self.grid = tuple(grid)
        self.channels = channels
        self.coordinates: CoordinateGrid = coordinates
        self.value_scale = 0.5 if target_range == "symmetric" else 1.0
        self.value_offset = 0.5 if target_range == "symmetric" else 0.0
        self.network = build_network(network, in_dim=len(self.grid), out_dim=channels, **(network_config or {}))

    def signal(self, values: Float[Tensor, "*grid C"]) -> Signal:
        """Values in [0, 1] with the units and the name of the signal that was fitted."""
        d = self.description
        return Signal(values, str(d["name"]), d["low"], d["high"], d["bits"], tuple(d["spacing"]))  # type: ignore[arg-type]

    def target(self, values: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """What the network's output should be for values in [0, 1]."""
        return (values - self.value_offset) / self.value_scale

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch C"]:
        """Values, in [0, 1] where the fit is good, at (..., d) coordinates in [-1, 1]."""
        return network_values(self.network, x) * self.value_scale + self.value_offset

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.network.parameters()).device

    def points(self) -> Float[Tensor, "N d"]:
        """Coordinates of all samples of the grid, on the network's device."""
        return grid_coordinates([axis_coordinates(n, self.coordinates) for n in self.grid]).to(self.device)

    def axes(
        self, scale: int = 1, shift: float = 0.0, window: Sequence[tuple[int, int]] | None = None
    ) -> list[Float[Tensor, "n"]]:
        """Coordinates along each axis of a finer, shifted or partial grid.

        Args:
            scale: cells along each axis in the place of one.
            shift: moves the samples along all axes, in cells of the fitted grid.
            window: first and last (exclusive) sample of the fitted grid along each axis; None for all.

        Raises:
            ValueError: the scale is less than 1, or the window is empty or leaves the grid.
        """
        if scale < 1:
            raise ValueError(f"the scale must be 1 or more, got {scale}.")
        axes = [axis_coordinates(n, self.coordinates, scale, shift) for n in self.grid]
        if window is None:
            return axes
        for (first, last), count in zip(window, self.grid, strict=True):
            if not 0 <= first < last <= count:
                raise ValueError(f"a window from {first} to {last} does not lie on an axis of {count} samples.")
        return [axis[first * scale : last * scale] for axis, (first, last) in zip(axes, window, strict=True)]

    @torch.no_grad()
    def render(
        self,
        scale: int = 1,
        shift: float = 0.0,
        window: Sequence[tuple[int, int]] | None = None,
        batch: int = 65_536,
    ) -> Float[Tensor, "*grid C"]:
        """Values on the fitted grid, on a finer one (super-resolution) or on a shifted one; see :meth:`axes`.

        Args:
            scale: cells along each axis in the place of one.
            shift: moves the samples along all axes, in cells of the fitted grid.
            window: part of the grid.
            batch: points at a time.

        Returns:
            (*grid, C) on the CPU, not clamped.
        """
        axes = self.axes(scale, shift, window)
        sizes = [len(axis) for axis in axes]
        # Whole hyperplanes at a time: the coordinates of a large picture never exist all at once.
        rest = max(1, int(torch.tensor(sizes[1:]).prod()))
        rows = max(1, batch // rest)
        parts = []
        for first in axes[0].split(rows):
            x = grid_coordinates([first, *axes[1:]]).to(self.device)
            parts.append(torch.cat([self(part).cpu() for part in x.split(batch)]))
        return torch.cat(parts).reshape(*sizes, self.channels)

    def save(self, path: Path | str) -> None:
        """Write the field to a file that ``torch.load(weights_only=True)`` accepts; appears whole or not at all."""
        content = {"description": self.description, "state": self.state_dict()}
        save_weights(path, content)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> GridField:
        """Read a field written by :meth:`save`.

        Raises:
            ValueError: the file is missing or is not such a field.
        """
        try:
            content = read_weights(path, device)
            field = cls(**content["description"])
            field.load_state_dict(content["state"])
        except FileNotFoundError:
            raise ValueError(f"there is no checkpoint at '{path}'.") from None
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"'{path}' is not a checkpoint of fit_image.py or fit_volume.py ({reason}).") from None
        return field.to(device)
