"""Random but reproducible solids, where a data set is needed that nobody has to download.

Each is a tree of smooth unions and differences of rounded boxes, balls, tori and capsules. The distance functions and
the polynomial smooth minimum are those of Inigo Quilez, "Distance functions" and "Smooth minimum" (2008 to 2013). They
bound the true distance from below; what is fitted are the meshes extracted from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.errors import ShapeError
from sdf_tools.extraction import extract_mesh, largest_component
from sdf_tools.geometry import Mesh
from sdf_tools.io.writing import save_mesh

Field = Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]]
KINDS = ("ball", "box", "torus", "capsule")
_LEAST_VOLUME = 2e-3  # of the unit box; what is less is drawn again


def ball(points: Tensor, radius: float) -> Tensor:
    """Signed distance of (N, 3) points to a ball around the origin."""
    return points.norm(dim=-1) - radius


def box(points: Tensor, half: Tensor, rounding: float) -> Tensor:
    """Signed distance to a box of half sides ``half`` (3,), its edges rounded by a radius."""
    outside = points.abs() - (half - rounding)
    return outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0) - rounding


def torus(points: Tensor, major: float, minor: float) -> Tensor:
    """Signed distance to a torus around the y axis."""
    ring = torch.stack([points[:, [0, 2]].norm(dim=-1) - major, points[:, 1]], -1)
    return ring.norm(dim=-1) - minor


def capsule(points: Tensor, half_length: float, radius: float) -> Tensor:
    """Signed distance to a capsule along the y axis."""
    along = points[:, 1].clamp(-half_length, half_length)
    return torch.stack([points[:, 0], points[:, 1] - along, points[:, 2]], -1).norm(dim=-1) - radius


def smooth_union(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """The smaller of two distances, blended where they differ by less than ``radius`` (quadratic polynomial)."""
    blend = (radius - (a - b).abs()).clamp(min=0) / radius
    return torch.minimum(a, b) - blend.square() * (radius / 4)


def smooth_difference(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """``a`` without ``b``, the edge between them blended."""
    return -smooth_union(-a, b, radius)


def synthetic_field(seed: int, parts: int | None = None) -> Field:
    """A random solid as a function of (N, 3) points in the box [-0.5, 0.5]^3, negative inside.

    Args:
        seed: the same seed is always the same solid.
        parts: primitives; None draws 2 to 6.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    count = parts or 2 + int(torch.randint(5, (), generator=generator))
    pieces: list[tuple[Field, bool, float]] = []
    for index in range(count):
        kind = KINDS[int(torch.randint(len(KINDS), (), generator=generator))]
        center = torch.tensor([draw(-0.18, 0.18) for _ in range(3)], dtype=torch.float64)
        turn = _rotation(torch.randn(4, generator=generator, dtype=torch.float64))
        sizes = [draw(0.0, 1.0) for _ in range(3)]
        removed = index > 0 and draw(0, 1) < 0.35
        pieces.append((_placed(kind, center, turn, sizes), removed, draw(0.01, 0.08)))

    def value(points: Tensor) -> Tensor:
        precise = points.double()
        distance = pieces[0][0](precise)
        for piece, removed, radius in pieces[1:]:
            combine = smooth_difference if removed else smooth_union
            distance = combine(distance, piece(precise), radius)
        return distance.to(points.dtype)

    return value


def _placed(kind: str, center: Tensor, turn: Tensor, sizes: list[float]) -> Field:
    def value(points: Tensor) -> Tensor:
        local = (points - center) @ turn
        if kind == "ball":
            return ball(local, 0.09 + 0.13 * sizes[0])
        if kind == "box":
            return box(local, torch.tensor([0.07 + 0.14 * size for size in sizes], dtype=local.dtype), 0.02)
        if kind == "torus":
            return torus(local, 0.12 + 0.07 * sizes[0], 0.04 + 0.04 * sizes[1])
        return capsule(local, 0.08 + 0.12 * sizes[0], 0.05 + 0.05 * sizes[1])

    return value


def _rotation(quaternion: Tensor) -> Tensor:
    """The (3, 3) rotation of a quaternion (w, x, y, z) of any length."""
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def synthetic_mesh(seed: int, resolution: int = 64, parts: int | None = None) -> Mesh:
    """The surface of a random solid: closed, in one piece.

    Args:
        seed: the same seed is always the same mesh.
        resolution: cells along the box.
        parts: primitives; None draws 2 to 6.

    Returns:
        A mesh in the box [-0.5, 0.5]^3.

    Raises:
        ShapeError: the seed gives no solid of enough volume.
    """
    for attempt in range(100):
        try:
            # torch looks at 32 bits of a seed only, so an attempt's number is mixed into them.
            mixed = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0]) if attempt else seed
            mesh = largest_component(extract_mesh(synthetic_field(mixed, parts), resolution))
        except ShapeError:  # the differences left nothing
            continue
        corners = mesh.vertices[mesh.faces]
        volume = float((corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum()) / 6
        if math.isfinite(volume) and abs(volume) > _LEAST_VOLUME:
            return Mesh(mesh.vertices, mesh.faces, name=f"synthetic_{seed}")
    raise ShapeError(f"no solid of enough volume came from seed {seed}; choose another.")


def write_synthetic(folder: str | Path, count: int, seed: int = 0, resolution: int = 64) -> list[Path]:
    """Write random solids as ``synthetic_00000.ply`` and so on; files that are there stay.

    Args:
        folder: made if it is missing.
        count: how many.
        seed: of the first; the next ones follow.
        resolution: cells along the box.
    """
    paths = [Path(folder) / f"synthetic_{index:05d}.ply" for index in range(seed, seed + count)]
    for index, path in enumerate(paths):
        if not path.exists():
            save_mesh(synthetic_mesh(seed + index, resolution), path)
    return paths
