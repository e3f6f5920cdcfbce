"""Samples on, near and inside surfaces; the same seed gives the same samples.

Memory beyond the mesh itself: 16 bytes per face for the area tables, and about 80 bytes per sample drawn at once
(``stream_surface`` bounds the second: 21 MB with its default chunk).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.errors import ShapeError, needs
from sdf_tools.geometry import Mesh, Shape, for_numpy
from sdf_tools.spatial._libraries import import_kernels
from sdf_tools.threads import in_threads
from sdf_tools.topology import edge_pairs, edge_table, face_cross, unit_face_normals
from sdf_tools.vectors import unit_vectors

Noise = Literal["laplace", "gaussian"]

_FACE_BLOCK = 1 << 18


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on a mesh.

    Attributes:
        points: (N, 3) float64, in the units of the mesh.
        normals: (N, 3) float64 unit normals of the triangles they lie on (of both triangles, for edge samples).
        faces: (N,) int64 triangle indices.
    """

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    faces: Int[Tensor, " N"]


def sample_surface(mesh: Mesh, count: int, seed: int = 0, weights: Float[Tensor, " F"] | None = None) -> SurfaceSamples:
    """Independent samples, uniform by area, or by area times ``weights`` per face.

    >>> from sdf_tools import extract_mesh, sample_surface
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=32)
    >>> samples = sample_surface(ball, 1000, seed=0)
    >>> samples.points.shape, round(float((samples.points * samples.normals).sum(1).mean()), 2)
    (torch.Size([1000, 3]), 0.4)

    Args:
        mesh: any triangle mesh.
        count: how many.
        seed: same seed, same samples.
        weights: (F,) density per unit area, relative; None is uniform.

    Raises:
        ValueError: the count or the seed is negative, or weights are negative or not finite.
        ShapeError: the mesh has no area (or no weight) to sample, coordinates that are not finite, or faces of vertices
            that are not there.
    """
    return _draw(mesh, _area_table(mesh, weights), count, _generator(seed))


def stream_surface(
    mesh: Mesh, count: int, chunk: int = 1 << 18, seed: int = 0, weights: Float[Tensor, " F"] | None = None
) -> Iterator[SurfaceSamples]:
    """As :func:`sample_surface`, in pieces of ``chunk`` samples, so that any count fits in bounded memory."""
    if chunk < 1:
        raise ValueError(f"chunk must be positive, not {chunk}.")
    tables, rng = _area_table(mesh, weights), _generator(seed)
    for start in range(0, count, chunk):
        yield _draw(mesh, tables, min(chunk, count - start), rng)


def _require_count(count: int) -> None:
    """Refuse a negative number of samples.

    Raises:
        ValueError: it is negative.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, not {count}.")


def _generator(seed: int) -> np.random.Generator:
    """Random numbers from a seed.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}.")
    return np.random.default_rng(seed)


def _area_table(mesh: Mesh, weights: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """What faces are drawn from, computed in blocks so that large meshes need little memory.

    Returns:
        table: (L,) running sum of the faces' shares, up to the last face that has one.
        guide: (L,) the first face whose sum exceeds i / L of the total, where the search for a face starts.
    """
    mesh = for_numpy(mesh)
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    share = np.empty(len(faces))
    for start in range(0, len(faces), _FACE_BLOCK):
        block = slice(start, start + _FACE_BLOCK)
        with np.errstate(invalid="ignore"):  # said below
            share[block] = np.linalg.norm(face_cross(vertices, faces[block]), axis=1)
    if weights is not None:
        if weights.shape != (len(faces),) or not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError(f"weights must be {len(faces)} finite numbers that are not negative, one per face.")
        share *= weights.detach().cpu().double().numpy()
    table = np.cumsum(share, out=share)
    if len(table) and not np.isfinite(table[-1]):
        raise ShapeError(f"'{mesh.name}' has triangles with corners that are NaN or infinite; remove those first.")
    if len(table) == 0 or not table[-1] > 0:
        raise ShapeError(f"'{mesh.name}' has no area to sample: it has no triangles, or all are degenerate.")
    table = table[: np.searchsorted(table, table[-1]) + 1]
    guide = np.searchsorted(table, np.arange(len(table)) * (table[-1] / len(table)), side="right").astype(np.int32)
    return table, guide


def _draw(
    mesh: Mesh, tables: tuple[np.ndarray, np.ndarray], count: int, rng: np.random.Generator
) -> SurfaceSamples:  # fmt: skip
    """Uniform points on triangles drawn from the tables of :func:`_area_table`."""
    _require_count(count)
    chance, uv = rng.random(count), rng.random((2, count))
    points, normals, ids = np.empty((count, 3)), np.empty((count, 3)), np.empty(count, np.int64)
    mesh = for_numpy(mesh)
    vertices, faces, kernel = mesh.vertices.double().numpy(), mesh.faces.numpy(), import_kernels().draw

    def part(rows: slice) -> None:
        kernel(vertices, faces, *tables, chance[rows], uv[:, rows], points[rows], normals[rows], ids[rows])

    in_threads(part, count)
    return SurfaceSamples(torch.from_numpy(points), torch.from_numpy(normals), torch.from_numpy(ids))


def sample_poisson_disk(mesh: Mesh, count: int, seed: int = 0, oversampling: int = 3) -> SurfaceSamples:
    """Exactly ``count`` blue-noise samples: no two much closer than the rest.

    Weighted sample elimination (Yuksel, Eurographics 2015): of ``oversampling * count`` uniform samples the most
    crowded goes, until ``count`` are left. 3 times the samples put the closest two at 0.60 of the densest packing's
    distance, 5 times (Yuksel's choice) at 0.63 in twice the time (docs/toolkit.md). Distances are straight lines, so
    thin sheets see through to their back.

    Args:
        mesh: sampled, in any units.
        count: points wanted, at least 1.
        seed: same seed, same points.
        oversampling: uniform samples for each point wanted, at least 2.

    Returns:
        (count, 3) points with normals and faces.

    Raises:
        ValueError: ``count`` or ``oversampling`` is too small, or the seed negative.
        ShapeError: the mesh has no area.
        MissingLibraryError: numba is not installed.
    """
    with needs("numba", "Blue noise"):
        from sdf_tools import _elimination_kernels as kernels
    if count < 1 or oversampling < 2:
        raise ValueError("count must be at least 1 and oversampling at least 2.")
    tables = _area_table(mesh, None)
    some = _draw(mesh, tables, oversampling * count, _generator(seed))
    # The table sums twice the areas; twice the disc radius of the densest packing of `count` points.
    reach = 2 * float(np.sqrt(tables[0][-1] / 2 / (2 * np.sqrt(3) * count)))
    order, cell, runs = kernels.sort_into_cells(some.points.numpy(), reach)
    points = some.points.numpy()[order]
    crowding = np.empty(len(points))

    def part(rows: slice) -> None:
        kernels.crowd(rows.start, points, cell, runs, reach, crowding[rows])

    in_threads(part, len(points))
    alive = kernels.eliminate(points, cell, runs, reach, crowding, count)
    kept = torch.from_numpy(np.sort(order[alive]))
    return SurfaceSamples(some.points[kept], some.normals[kept], some.faces[kept])


def dihedral_angles(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges between exactly two faces: (E, 2) vertices, (E, 2) faces, and (E,) angle between their normals, radians."""
    mesh = for_numpy(mesh)
    faces = mesh.faces.numpy()
    table = edge_table(faces)
    shared, places = edge_pairs(table)
    pair = places // 3
    normals = unit_face_normals(mesh.vertices.numpy(), faces)
    a, b = normals[pair[:, 0]], normals[pair[:, 1]]
    angle = np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("ij,ij->i", a, b))
    return table.edges[shared], pair, angle


def curvature_weights(mesh: Mesh, strength: float = 1.0) -> Float[Tensor, " F"]:
    """(F,) sampling densities ``1 + strength * k / mean(k)``, at most ``1 + 10 * strength``.

    ``k`` is the absolute mean curvature about a face: half the sum of dihedral angle times edge length over its
    corners' edges, per area (Meyer et al. 2003 in its edge form; Cohen-Steiner and Morvan 2003).
    """
    mesh = for_numpy(mesh)
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    edges, _, angle = dihedral_angles(mesh)
    bending = angle * np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) / 2
    per_vertex = sum(np.bincount(edges[:, i], bending, len(vertices)) for i in range(2))
    area = np.linalg.norm(face_cross(vertices, faces), axis=1) / 2
    around = sum(np.bincount(faces[:, i], area / 3, len(vertices)) for i in range(3))
    curvature = np.divide(per_vertex, 2 * around, out=np.zeros(len(vertices)), where=around > 0)[faces].mean(1)
    mean = float((curvature * area).sum() / max(area.sum(), 1e-300))
    relative = np.minimum(curvature / mean, 10) if mean > 0 else np.zeros(len(faces))
    return torch.from_numpy(1 + strength * relative)


def sample_curvature(mesh: Mesh, count: int, seed: int = 0, strength: float = 1.0) -> SurfaceSamples:
    """Samples that are denser where the surface bends: see :func:`curvature_weights`."""
    return sample_surface(mesh, count, seed, curvature_weights(mesh, strength))


def sample_sharp_edges(mesh: Mesh, count: int, angle: float = 30.0, seed: int = 0) -> SurfaceSamples:
    """Samples on edges whose faces meet at more than ``angle`` degrees, uniform by length.

    Normals are the mean of the two faces', ``faces`` one of the two.

    Raises:
        ValueError: the count or the seed is negative.
        ShapeError: the mesh has no such edge.
    """
    _require_count(count)
    mesh = for_numpy(mesh)
    edges, pair, bend = dihedral_angles(mesh)
    sharp = bend > np.deg2rad(angle)
    vertices = mesh.vertices.numpy()
    start, end = vertices[edges[sharp, 0]], vertices[edges[sharp, 1]]
    table = np.cumsum(np.linalg.norm(end - start, axis=1))
    if len(table) == 0:
        raise ShapeError(f"'{mesh.name}' has no edge sharper than {angle:g} degrees; choose a smaller angle.")
    rng = _generator(seed)
    ids = np.minimum(np.searchsorted(table, rng.random(count) * table[-1], side="right"), len(table) - 1)
    points = start[ids] + rng.random((count, 1)) * (end - start)[ids]
    normals = unit_vectors(unit_face_normals(vertices, mesh.faces.numpy())[pair[sharp][ids]].sum(1))
    return SurfaceSamples(torch.from_numpy(points), torch.from_numpy(normals), torch.from_numpy(pair[sharp][ids, 0]))


def sample_volume(mesh: Mesh, count: int, seed: int = 0) -> Float[Tensor, "N 3"]:
    """(count, 3) float64 points uniform inside the mesh, by rejection from its bounding box.

    >>> from sdf_tools import extract_mesh, sample_volume
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=32)
    >>> round(float(sample_volume(ball, 20_000).norm(dim=1).mean()), 2)  # 3/4 of the radius
    0.3

    Raises:
        ValueError: the count or the seed is negative.
        ShapeError: less than about one box point in 10,000 is inside, so there is no inside to speak of.
    """
    from sdf_tools.distance.signed_distance import SignedDistance

    _require_count(count)
    mesh = for_numpy(mesh)
    distance = SignedDistance(mesh)
    rng = _generator(seed)
    vertices = mesh.vertices.numpy()
    low, high = vertices.min(0), vertices.max(0)
    kept = [torch.zeros(0, 3, dtype=torch.float64)]
    found = tried = 0
    while found < count:
        rate = max(found, 1) / max(tried, 10)
        size = int(np.clip(1.1 * (count - found) / rate, 10_000, 1 << 20))
        box = torch.from_numpy(low + rng.random((size, 3)) * (high - low))
        kept.append(box[distance.contains(box)])
        found, tried = found + len(kept[-1]), tried + size
        if tried > 200_000 and found < tried * 1e-4:
            raise ShapeError(
                f"'{mesh.name}' encloses almost nothing, so its inside cannot be sampled; repair it first."
            )
    return torch.cat(kept)[:count]


def sample_near_surface(
    shape: Shape, count: int, scale: float, seed: int = 0, noise: Noise = "laplace", bounds: float | None = None
) -> Float[Tensor, "N 3"]:
    """Surface points moved by independent noise per axis.

    The paper's coarse and fine samples are ``laplace`` with scale 0.1 and 0.001 in box units.

    Args:
        shape: mesh (uniform by area) or point cloud (every point alike).
        count: how many.
        scale: Laplace scale or Gaussian standard deviation, in the units of the shape.
        seed: same seed, same samples.
        noise: ``laplace`` or ``gaussian``.
        bounds: draw noise again that leaves [-bounds, bounds]^3; None lets it go anywhere.

    Raises:
        ValueError: the count or the seed is negative, the scale negative or not finite, or ``bounds`` not positive or
            smaller than the shape.
        ShapeError: a mesh has no area, or a cloud no points.
    """
    _require_count(count)
    if not 0 <= scale < np.inf:
        raise ValueError(f"scale must be 0 or more and finite, not {scale}.")
    if bounds is not None and not bounds > 0:
        raise ValueError(f"bounds must be more than 0, not {bounds}.")
    rng = _generator(seed)
    points = surface_points(shape, count, rng)
    if bounds is not None and (np.abs(points) > bounds).any():
        raise ValueError(f"the shape reaches {np.abs(points).max():.6g} from the origin, beyond bounds {bounds:g}.")
    return torch.from_numpy(near_surface(points, scale, rng, noise, np.inf if bounds is None else bounds))


def surface_points(shape: Shape, count: int, rng: np.random.Generator, weights: np.ndarray | None = None) -> np.ndarray:
    """(count, 3) points on a mesh, uniform by area, or drawn from a cloud, where ``weights`` (N,) says how often."""
    if isinstance(shape, Mesh):
        return _draw(shape, _area_table(shape, None), count, rng).points.numpy()
    points = for_numpy(shape).points.double().numpy()
    if len(points) == 0:
        raise ShapeError(f"'{shape.name}' has no points to draw from; give a cloud with some.")
    if weights is None:
        return points[rng.integers(0, len(points), count)]
    ends = np.cumsum(weights)
    return points[np.searchsorted(ends, rng.random(count) * ends[-1]).clip(max=len(points) - 1)]


def near_surface(
    points: np.ndarray, scale: float, rng: np.random.Generator, noise: Noise = "laplace", half_side: float = 0.5
) -> np.ndarray:
    """(N, 3) surface points moved by noise; noise that leaves [-half_side, half_side]^3 is drawn again."""
    if noise not in ("laplace", "gaussian"):
        raise ValueError(f"noise must be 'laplace' or 'gaussian', not '{noise}'.")
    draw = rng.laplace if noise == "laplace" else rng.normal
    moved = points + draw(scale=scale, size=points.shape)
    outside = np.flatnonzero((np.abs(moved) > half_side).any(1))
    # Nearly always over in a few rounds; what noise much wider than the box leaves after the last one is clamped.
    for _ in range(500):
        if len(outside) == 0:
            break
        moved[outside] = points[outside] + draw(scale=scale, size=(len(outside), 3))
        outside = outside[(np.abs(moved[outside]) > half_side).any(1)]
    return np.clip(moved, -half_side, half_side)
