"""Sums over all points of a cloud, by a tree: the winding number field of a set of dipoles, its gradient, its adjoint.

Far groups of points act through their total at their centroid (Barnes and Hut 1986; Barill et al. 2018 for winding
numbers), close ones one by one. libigl and point-cloud-utils evaluate the field but neither its gradient nor its
adjoint, which orientation needs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdf_tools.errors import needs
from sdf_tools.spatial.neighbours import morton_order
from sdf_tools.threads import in_threads

LEAF = 8
BLOCK = 32  # targets that descend the tree together
NEAR = 2.0  # a group acts as one when it is further away than this many of its radii

WINDING, ADJOINT, GRADIENT = 0, 1, 2  # as in winding_kernels, whose import needs numba


def _kernel() -> Callable[..., None]:
    with needs("numba", "A winding-number field"):
        from sdf_tools.spatial._winding_kernels import tree_sum
    return tree_sum


class WindingTree:
    """A tree over (N, 3) points. Every sum takes sources in the order of the points and a softening length.

    With softening ``h`` the kernel ``r / |r|^3`` becomes ``r / (|r|^2 + h^2)^(3/2)``: the jump of the winding number
    at the surface is spread over a distance of about ``h``. Time falls with ``near``, and so does accuracy.
    """

    def __init__(self, points: np.ndarray, near: float = NEAR) -> None:
        self._near = near
        self._order = morton_order(points)
        self._points = np.ascontiguousarray(points[self._order])
        starts: list[int] = []
        ends: list[int] = []
        skips: list[int] = []

        # Halves of the Z order are compact; nodes are laid out depth first, so `skip` alone drives the traversal.
        def build(start: int, end: int) -> None:
            node = len(starts)
            starts.append(start)
            ends.append(end)
            skips.append(0)
            if end - start > LEAF:
                middle = (start + end) // 2
                build(start, middle)
                build(middle, end)
            skips[node] = len(starts)

        build(0, len(points))
        self._first, self._last, self._skip = (np.array(x, np.int64) for x in (starts, ends, skips))
        sums = self._segment(self._points)
        self._centers = sums / (self._last - self._first)[:, None]
        self._radii = np.zeros(len(starts))
        for node, (start, end) in enumerate(zip(starts, ends, strict=True)):
            away = self._points[start:end] - self._centers[node]
            self._radii[node] = np.sqrt(np.einsum("ij,ij->i", away, away).max())

    def _segment(self, rows: np.ndarray) -> np.ndarray:
        """The sum of (N, k) rows over every node."""
        running = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
        return running[self._last] - running[self._first]

    def _sum(self, targets: np.ndarray | None, sources: np.ndarray, soften: float, mode: int) -> np.ndarray:
        sources = np.ascontiguousarray(sources[self._order])
        order = self._order if targets is None else morton_order(targets)
        ordered = self._points if targets is None else np.ascontiguousarray(targets[order])
        out = np.empty((len(ordered), 3))
        totals = self._segment(sources)
        kernel = _kernel()
        # Sparse targets lie too far apart to share a descent.
        block = BLOCK if 16 * len(ordered) >= len(self._points) else 1

        def part(blocks: slice) -> None:
            rows = slice(blocks.start * block, blocks.stop * block)
            kernel(
                ordered[rows],
                block,
                self._points,
                sources,
                self._first,
                self._last,
                self._centers,
                self._radii,
                totals,
                self._skip,
                soften * soften,
                mode,
                self._near,
                out[rows],
            )

        in_threads(part, -(-len(ordered) // block), least=-(-256 // block))
        result = np.empty_like(out)
        result[order] = out / (4 * np.pi)
        return result

    def winding(self, dipoles: np.ndarray, soften: float, targets: np.ndarray | None = None) -> np.ndarray:
        """(M,) winding number of (N, 3) dipoles (area times outward normal) at targets, or at the points."""
        return self._sum(targets, dipoles, soften, WINDING)[:, 0]

    def adjoint(self, weights: np.ndarray, soften: float) -> np.ndarray:
        """(N, 3) the transpose of :meth:`winding` at the points, applied to (N,) weights."""
        return self._sum(None, np.repeat(weights[:, None], 3, 1), soften, ADJOINT)

    def gradient(self, dipoles: np.ndarray, soften: float, targets: np.ndarray | None = None) -> np.ndarray:
        """(M, 3) gradient of the winding number; it points inward."""
        return self._sum(targets, dipoles, soften, GRADIENT)
