"""Any field, numpy or torch, as one function from float64 positions to float32 values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdf_tools.chunks import chunk_size
from sdf_tools.errors import ShapeError

STAND_IN = 1e30
"""Values from here on mean "anywhere outside", such as a capped border's; they say nothing about distance."""


def lost_in_float32(size: np.ndarray | float, step: np.ndarray | float) -> bool:
    """Whether float32 rounds numbers of ``size`` by more than a thousandth of a ``step``, along any axis."""
    return bool(np.any(np.asarray(size) * 2.0**-24 > 1e-3 * np.asarray(step)))


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

    @property
    def lost_in_float32(self) -> bool:
        """Whether float32 is too coarse for positions so far away."""
        farthest = np.maximum(np.abs(self.low), np.abs(self.positions(self.cells)))
        return lost_in_float32(farthest, self.spacing)

    def positions(self, index: np.ndarray) -> np.ndarray:
        return self.low + index * self.spacing

    def split(self, keys: np.ndarray) -> np.ndarray:
        """(N,) node keys to (N, 3) indices."""
        return np.stack(np.unravel_index(keys, tuple(self.nodes)), axis=-1)

    def keys(self, index: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple(index.T), tuple(self.nodes))


Field = Callable[[Any], Any]


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    # numpy knows no bfloat16.
    return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()


def _first_tensor(module: torch.nn.Module) -> torch.Tensor | None:
    """Of its parameters, else of its buffers, the first that is not of whole numbers."""
    return next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)


class SampledField:
    """Evaluates a field in chunks, counts the evaluations and remembers the range of values.

    Args:
        field: callable (N, 3) -> (N,) or (N, 1) on torch tensors or numpy arrays.
        device: where a torch field lives; default the device of a module's parameters or buffers, else the CPU.
        chunk: points per call; default the field's own ``points_at_once``, else :func:`sdf_tools.chunks.chunk_size`.
        progress: called as ``progress(stage, evaluations)`` after every chunk.
        border: value that stands in for the field's on the faces of the box, or None.
        double: whether plain functions on the CPU get float64 tensors (networks keep their own type); None: if the
            first positions asked for are too far away for float32.
    """

    def __init__(
        self,
        field: Field,
        device: torch.device | str | None = None,
        chunk: int | None = None,
        progress: Callable[[str, int], None] | None = None,
        border: float | None = None,
        double: bool | None = None,
    ) -> None:
        own = _first_tensor(field) if isinstance(field, torch.nn.Module) else None
        self.field = field
        self.device = torch.device(device) if device else (torch.device("cpu") if own is None else own.device)
        self.own_dtype = torch.float32 if own is None else own.dtype
        self.dtype = torch.float64 if self.own_dtype == torch.float64 else torch.float32
        self.chunk = chunk or getattr(field, "points_at_once", None) or chunk_size(self.device)
        self.progress = progress
        self.border = border
        self.double = double
        self.offset = 0.0
        self.stage = "search"
        self.evaluations = 0
        self.lowest, self.highest = np.inf, -np.inf
        self.numpy: bool | None = None
        self.returns_tensors = True
        self._differentiable: bool | None = None

    def subtract(self, offset: float) -> None:
        """Give values less ``offset`` from now on, taken off in float64 so that large values keep their digits."""
        self.offset, self.double, self.numpy = offset, True, None

    @property
    def takes_float32_only(self) -> bool:
        return self.numpy is False and self.dtype == torch.float32

    def _call(self, positions: np.ndarray) -> np.ndarray:
        """The field at (n, 3) float64 positions, as it came but as a numpy array (n,)."""
        if self.numpy is None:
            self.numpy, self.dtype = self._way(positions)
        return self._ask(positions, self.numpy, self.dtype)

    def _ask(self, positions: np.ndarray, as_numpy: bool, dtype: torch.dtype) -> np.ndarray:
        given = positions if as_numpy else torch.from_numpy(positions).to(self.device, dtype)
        values = self.field(given)
        self.returns_tensors = isinstance(values, torch.Tensor)
        values, count = _array(values), len(positions)
        # ``squeeze`` leaves no axis of a single point.
        if values.shape not in ((count,), (count, 1)) and not (count == 1 and values.shape == ()):
            raise ValueError(
                f"The field returned shape {tuple(values.shape)} for {count} points; it must return (N,) or (N, 1)."
            )
        return values.reshape(-1)

    def _way(self, positions: np.ndarray) -> tuple[bool, torch.dtype]:
        """Whether to give numpy arrays, and tensors of which type: the first way in which the field gives values."""
        if isinstance(self.field, torch.nn.Module):
            if self.own_dtype.itemsize < 4:
                self._require_float32(positions)
            return False, self.dtype
        ways = [(False, self.dtype), (True, self.dtype), (False, torch.float64)]
        if self._wants_double(positions):
            ways = [ways[2], *ways[:2]]
        errors = {}
        for way in ways:
            try:
                self._ask(positions[:2].copy(), *way)  # a copy: the field may work in place
                return way
            except Exception as error:  # whatever a function raises that is given what it was not written for
                errors[way] = error
        raise errors[False, self.dtype]  # of the field's own type, which says most of what is wrong in it

    def _require_float32(self, positions: np.ndarray) -> None:
        try:
            self._ask(positions[:2], False, torch.float32)
        except RuntimeError as error:
            raise ValueError(
                f"The network computes in {str(self.own_dtype).removeprefix('torch.')}, too coarse for positions on a "
                "lattice; give network.float()."
            ) from error

    def _wants_double(self, positions: np.ndarray) -> bool:
        if self.device.type != "cpu":
            return False
        if self.double is None:
            extent = float(np.ptp(positions, axis=0).max())
            self.double = extent > 0 and lost_in_float32(float(np.abs(positions).max()), extent / 1000)
        return self.double

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Values at (N, 3) float64 positions, less the offset: (N,) float32.

        Raises:
            ValueError: the field returns another number of values, or NaN.
        """
        result = np.empty(len(positions), dtype=np.float32)
        limit = np.finfo(np.float32).max
        with torch.no_grad():
            for start in range(0, len(positions), self.chunk):
                part = positions[start : start + self.chunk]
                values = self._call(part)
                if np.isnan(values).any():
                    where = part[int(np.flatnonzero(np.isnan(values))[0])]
                    raise ShapeError(
                        f"The field is NaN at {int(np.isnan(values).sum())} of {len(part)} points, first at "
                        f"({where[0]:.4g}, {where[1]:.4g}, {where[2]:.4g}); did its training diverge?"
                    )
                self.lowest = min(self.lowest, float(values.min()))
                self.highest = max(self.highest, float(values.max()))
                if self.offset:
                    values = values.astype(np.float64) - self.offset
                result[start : start + len(part)] = np.clip(values, -limit, limit)
                self.evaluations += len(part)
                if self.progress is not None:
                    self.progress(self.stage, self.evaluations)
        return result

    def at(self, grid: Grid, index: np.ndarray) -> np.ndarray:
        """Values at (N, 3) lattice nodes: (N,) float32."""
        if self.border is None:
            return self(grid.positions(index))
        result = np.full(len(index), self.border, dtype=np.float32)
        inner = ((index > 0) & (index < grid.cells)).all(1)
        result[inner] = self(grid.positions(index[inner]))
        return result

    def capped(self, grid: Grid, index: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """(N,) whether lattice edges from nodes (N, 3) along ``axes`` (N,) end on the border that caps the surface."""
        if self.border is None:
            return np.zeros(len(axes), dtype=bool)
        upper = index + np.eye(3, dtype=np.int64)[axes]
        return ((index == 0) | (upper == grid.cells)).any(1)

    def gradient(self, positions: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Gradients at (N, 3) float64 positions: (N, 3) float64.

        By automatic differentiation where the field allows it, otherwise by central differences of ``step`` (3,).
        """
        result = np.empty((len(positions), 3))
        for start in range(0, len(positions), self.chunk):
            part = positions[start : start + self.chunk]
            if self._differentiable is None and len(part):
                self._differentiable = self._is_differentiable(part[:64], step)
            gradient = self._autograd(part) if self._differentiable else None
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

    def _is_differentiable(self, positions: np.ndarray, step: np.ndarray) -> bool:
        """Whether automatic differentiation finds the slopes that differences do: a function may hide some of its terms
        from it, as distances to a mesh are; a network does not."""
        if self.numpy or not self.returns_tensors:
            return False
        found = self._autograd(positions)
        if found is None or isinstance(self.field, torch.nn.Module):
            return found is not None
        wanted = self._differences(positions, 10 * step)
        size = np.linalg.norm(wanted, axis=1)
        known = size > 0
        return not known.any() or float(np.median(np.linalg.norm(found - wanted, axis=1)[known] / size[known])) < 0.1

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
