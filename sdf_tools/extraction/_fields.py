"""Any field, numpy or torch, as one function from float64 positions to float32 values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdf_tools.chunks import chunk_size
from sdf_tools.errors import ShapeError


@dataclass(frozen=True)
class Grid:
    """The full lattice: positions are ``low + index * spacing``.

    Attributes:
        low: (3,) float64 corner of the box.
        spacing: (3,) float64.
        cells: (3,) int64 number of cells along each axis; there is one node more.
    """

    low: np.ndarray
    spacing: np.ndarray
    cells: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        return self.cells + 1

    def positions(self, index: np.ndarray) -> np.ndarray:
        return self.low + index * self.spacing

    def split(self, keys: np.ndarray) -> np.ndarray:
        """(N,) node keys to (N, 3) indices."""
        return np.stack(np.unravel_index(keys, tuple(self.nodes)), axis=-1)

    def keys(self, index: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple(index.T), tuple(self.nodes))


Field = Callable[[Any], Any]


class SampledField:
    """Evaluates a field in chunks, counts the evaluations and remembers the range of values.

    Args:
        field: callable (N, 3) -> (N,) or (N, 1) on torch tensors or numpy arrays.
        device: where a torch field lives; default the device of a module's parameters, else the CPU.
        chunk: points per call; default the field's own ``points_at_once``, else :func:`sdf_tools.chunks.chunk_size`.
        progress: called as ``progress(stage, evaluations)`` after every chunk.
        border: value that stands in for the field's on the faces of the box, or None.
    """

    def __init__(
        self,
        field: Field,
        device: torch.device | str | None = None,
        chunk: int | None = None,
        progress: Callable[[str, int], None] | None = None,
        border: float | None = None,
    ) -> None:
        parameter = next(field.parameters(), None) if isinstance(field, torch.nn.Module) else None
        self.field = field
        self.device = (
            torch.device(device) if device else (parameter.device if parameter is not None else torch.device("cpu"))
        )
        self.dtype = parameter.dtype if parameter is not None and parameter.dtype == torch.float64 else torch.float32
        self.chunk = chunk or getattr(field, "points_at_once", None) or chunk_size(self.device)
        self.progress = progress
        self.border = border
        self.stage = "search"
        self.evaluations = 0
        self.lowest, self.highest = np.inf, -np.inf
        self.numpy: bool | None = None
        self.returns_tensors = True

    def _call(self, positions: np.ndarray) -> np.ndarray:
        """The field at (n, 3) float64 positions, as it came but as a numpy array."""
        if self.numpy is None:
            self.numpy = self._wants_numpy(positions[:2])
        if self.numpy:
            return np.asarray(self.field(positions))
        values = self.field(torch.from_numpy(positions).to(self.device, self.dtype))
        self.returns_tensors = isinstance(values, torch.Tensor)
        return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)

    def _wants_numpy(self, positions: np.ndarray) -> bool:
        try:
            self.field(torch.from_numpy(positions).to(self.device, self.dtype))
            return False
        except (TypeError, AttributeError):
            if isinstance(self.field, torch.nn.Module):
                raise
            self.field(positions)  # its own error if it takes neither
            return True

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Values at (N, 3) float64 positions: (N,) float32.

        Raises:
            ValueError: the field returns another number of values, or NaN.
        """
        result = np.empty(len(positions), dtype=np.float32)
        limit = np.finfo(np.float32).max
        with torch.no_grad():
            for start in range(0, len(positions), self.chunk):
                part = positions[start : start + self.chunk]
                values = self._call(part)
                if values.shape not in ((len(part),), (len(part), 1)):
                    raise ValueError(
                        f"The field returned shape {tuple(values.shape)} for {len(part)} points; "
                        "it must return (N,) or (N, 1)."
                    )
                values = values.reshape(-1)
                if np.isnan(values).any():
                    where = part[int(np.flatnonzero(np.isnan(values))[0])]
                    raise ShapeError(
                        f"The field is NaN at {int(np.isnan(values).sum())} of {len(part)} points, first at "
                        f"({where[0]:.4g}, {where[1]:.4g}, {where[2]:.4g}); did its training diverge?"
                    )
                result[start : start + len(part)] = np.clip(values, -limit, limit)
                self.evaluations += len(part)
                if self.progress is not None:
                    self.progress(self.stage, self.evaluations)
        if len(result):
            self.lowest, self.highest = min(self.lowest, float(result.min())), max(self.highest, float(result.max()))
        return result

    def at(self, grid: Grid, index: np.ndarray) -> np.ndarray:
        """Values at (N, 3) lattice nodes: (N,) float32."""
        if self.border is None:
            return self(grid.positions(index))
        result = np.full(len(index), self.border, dtype=np.float32)
        inner = ((index > 0) & (index < grid.cells)).all(1)
        result[inner] = self(grid.positions(index[inner]))
        return result

    def gradient(self, positions: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Gradients at (N, 3) float64 positions: (N, 3) float64.

        By automatic differentiation where the field allows it, otherwise by central differences of ``step`` (3,).
        """
        result = np.empty((len(positions), 3))
        for start in range(0, len(positions), self.chunk):
            part = positions[start : start + self.chunk]
            gradient = self._autograd(part) if self.returns_tensors and not self.numpy else None
            if gradient is None:
                gradient = self._differences(part, step)
            else:
                self.evaluations += len(part)
                # Formulas with a kink on the surface (norms, clamps) have no derivative exactly there.
                flat = ~(np.abs(gradient).max(1) > 0)
                if flat.any():
                    gradient[flat] = self._differences(part[flat], step)
            result[start : start + len(part)] = gradient
        return result

    def _differences(self, positions: np.ndarray, step: np.ndarray) -> np.ndarray:
        gradient = np.empty((len(positions), 3))
        for axis in range(3):
            shift = np.zeros(3)
            shift[axis] = step[axis]
            ahead, behind = self(positions + shift).astype(np.float64), self(positions - shift)
            gradient[:, axis] = (ahead - behind) / (2 * step[axis])
        return gradient

    def _autograd(self, positions: np.ndarray) -> np.ndarray | None:
        with torch.enable_grad():
            points = torch.from_numpy(positions).to(self.device, self.dtype).requires_grad_(True)
            try:
                values = self.field(points)
            except RuntimeError as error:
                if "requires grad" not in str(error):
                    raise
                self.returns_tensors = False  # it leaves torch on the way (``.numpy()``): differences from now on
                return None
            if not isinstance(values, torch.Tensor) or not values.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
        return None if gradient is None else gradient.detach().cpu().double().numpy()
