"""Samples on, near and inside surfaces; the same seed gives the same samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.clean import face_cross
from sdf_tools.errors import ShapeError
from sdf_tools.shapes import Mesh


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on a mesh.

    Attributes:
        points: (N, 3) float64, in the units of the mesh.
        normals: (N, 3) float64 unit normals of the triangles they lie on.
        faces: (N,) int64 triangle indices.
    """

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    faces: Int[Tensor, " N"]


def sample_surface(mesh: Mesh, count: int, seed: int = 0, weights: Float[Tensor, " F"] | None = None) -> SurfaceSamples:
    """Independent samples, uniform by area, or by area times ``weights`` per face.

    Raises:
        ShapeError: the mesh has no area (or no weight) to sample.
    """
    rng = np.random.default_rng(seed)
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    cross = face_cross(vertices, faces)
    area = np.linalg.norm(cross, axis=1)
    share = area if weights is None else area * weights.detach().cpu().double().numpy()
    total = np.cumsum(share)
    if len(total) == 0 or not total[-1] > 0:
        raise ShapeError(f"'{mesh.name}' has no area to sample: it has no triangles, or all are degenerate.")
    ids = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    ids = np.minimum(ids, np.flatnonzero(share)[-1])
    return _place(vertices, faces, cross, area, ids, rng)


def _place(
    vertices: np.ndarray,
    faces: np.ndarray,
    cross: np.ndarray,
    area: np.ndarray,
    ids: np.ndarray,
    rng: np.random.Generator,
) -> SurfaceSamples:
    """One uniform point on each of the triangles ``ids``."""
    u, v = rng.random((2, len(ids)))
    over = u + v > 1  # the other half of the parallelogram folds back onto the triangle
    u, v = np.where(over, 1 - u, u)[:, None], np.where(over, 1 - v, v)[:, None]
    corner = faces[ids]
    a = vertices[corner[:, 0]]
    points = a + u * (vertices[corner[:, 1]] - a) + v * (vertices[corner[:, 2]] - a)
    normals = cross[ids] / area[ids, None]
    return SurfaceSamples(torch.from_numpy(points), torch.from_numpy(normals), torch.from_numpy(ids))


def near_surface(
    points: np.ndarray, scale: float, rng: np.random.Generator, noise: str = "laplace", half_side: float = 0.5
) -> np.ndarray:
    """(N, 3) surface points moved by independent noise per axis; noise that leaves the box is drawn again.

    Args:
        points: (N, 3) points inside the box.
        scale: Laplace scale b, or standard deviation of the Gaussian.
        rng: source of chance.
        noise: ``laplace`` or ``gaussian``.
        half_side: the box is [-half_side, half_side]^3.
    """
    if noise not in ("laplace", "gaussian"):
        raise ValueError(f"noise must be 'laplace' or 'gaussian', not '{noise}'.")
    draw = rng.laplace if noise == "laplace" else rng.normal
    moved = points + draw(scale=scale, size=points.shape)
    outside = np.flatnonzero((np.abs(moved) > half_side).any(1))
    # Half of all draws at a face of the box go back inside, so the rounds end; the rest is clamped to be sure.
    for _ in range(60):
        if len(outside) == 0:
            break
        moved[outside] = points[outside] + draw(scale=scale, size=(len(outside), 3))
        outside = outside[(np.abs(moved[outside]) > half_side).any(1)]
    return np.clip(moved, -half_side, half_side)
