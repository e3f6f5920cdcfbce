"""Overlap of the volumes that two meshes enclose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.metrics._distances import require_mesh, require_samples, require_seed
from sdf_tools.metrics._inside_cells import InsideCells
from sdf_tools.sampling import sample_surface


@dataclass(frozen=True)
class Overlap:
    """Intersection over union from sample points.

    Attributes:
        iou: points inside both over points inside either; NaN, undefined, if there are none.
        low: lower end of its 95 % confidence interval (Wilson's score).
        high: upper end.
        inside_either: how many points the estimate rests on.
    """

    iou: float
    low: float
    high: float
    inside_either: int


def _overlap(inside_a: Tensor, inside_b: Tensor) -> Overlap:
    both, either = int((inside_a & inside_b).sum()), int((inside_a | inside_b).sum())
    if either == 0:
        return Overlap(math.nan, math.nan, math.nan, 0)
    share, z2 = both / either, 1.959964**2
    middle = (share + z2 / (2 * either)) / (1 + z2 / either)
    half = np.sqrt(share * (1 - share) * z2 / either + z2**2 / (4 * either**2)) / (1 + z2 / either)
    return Overlap(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), either)


class Inside:
    """Inside test of a mesh for very many points.

    Exact for sealed meshes (see ``SignedDistance``); an open one is asked for its winding number only where its surface
    or a hole is near (see ``InsideCells``).
    """

    def __init__(self, mesh: Mesh) -> None:
        require_mesh(mesh)
        distance = SignedDistance(mesh)
        mesh = for_numpy(mesh)
        self.low, self.high = (x.numpy() for x in mesh.vertices[mesh.faces.reshape(-1)].double().aminmax(dim=0))
        self._test = distance.contains
        if distance.sign == "winding":
            cells = InsideCells(
                mesh.vertices.numpy(), mesh.faces.numpy(), lambda p: distance.contains(torch.from_numpy(p)).numpy()
            )
            self._test = lambda points: torch.from_numpy(cells(points.numpy()))

    def __call__(self, points: Tensor) -> Tensor:
        """Which of (N, 3) points are inside, boolean."""
        return self._test(points.detach().cpu().double())


def iou(
    prediction: Mesh | Inside, reference: Mesh | Inside, samples: int = 1_000_000, padding: float = 0.05, seed: int = 0
) -> Overlap:
    """Volumetric IoU at points uniform in the box that holds both meshes, padded by ``padding`` of its longest side.

    Occupancy Networks does the same with 100,000 points. instant-ngp counts points far from the mesh as right by
    construction, NGLOD samples mostly near the surface: their numbers do not compare with these.

    >>> from sdf_tools import extract_mesh, iou
    >>> ball, large = (extract_mesh(lambda p: p.norm(dim=-1) - r, resolution=48) for r in (0.4, 0.42))
    >>> round(iou(large, ball, samples=100_000).iou, 2)
    0.86

    Raises:
        ValueError: fewer samples than 0, or a seed that is negative.
        ShapeError: a mesh is empty, has no extent, or coordinates that are not finite, or is a point cloud.
    """
    require_samples("samples", samples, 0)
    require_seed(seed)
    a, b = _as_inside(prediction), _as_inside(reference)
    low, high = np.minimum(a.low, b.low), np.maximum(a.high, b.high)
    pad = padding * (high - low).max()
    unit = np.random.default_rng(seed).random((samples, 3))
    # Coordinates are independent: with one of them sorted it is the same sample, in an order that searches like.
    unit[:, int(np.argmax(high - low))].sort()
    points = low - pad + unit * (high - low + 2 * pad)
    return _overlap(a(torch.from_numpy(points)), b(torch.from_numpy(points)))


def iou_near_surface(
    prediction: Mesh | Inside, reference: Mesh, band: float, samples: int = 200_000, seed: int = 0,
    reference_inside: Inside | None = None,
) -> Overlap:  # fmt: skip
    """IoU at points within ``band`` of the reference's surface: area-uniform samples moved along their normals.

    Far more sensitive than the volumetric IoU, since no point lies safely deep inside. NGLOD's gIoU is biased this way.

    Raises:
        ValueError: fewer samples than 0, or a seed that is negative.
        ShapeError: a mesh has no area, or is a point cloud.
    """
    require_samples("samples", samples, 0)
    require_seed(seed)
    require_mesh(reference)
    drawn = sample_surface(reference, samples, seed)
    offset = (torch.rand(samples, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1) * band
    points = drawn.points + offset * drawn.normals
    return _overlap(_as_inside(prediction)(points), (reference_inside or _as_inside(reference))(points))


def iou_paper(prediction: Mesh | Inside, reference: Mesh | Inside) -> float:
    """BACON's and FINER's IoU: occupancy on a 128^3 grid over [-1, 1]^3, in which shapes of 0.9 fill [-0.45, 0.45].

    Only about 57 points cross the shape, so one grid point is worth 1e-4 and more. Both meshes must be in box units.
    """
    axis = torch.linspace(-1, 1, 128, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return _overlap(_as_inside(prediction)(grid), _as_inside(reference)(grid)).iou


def _as_inside(mesh: Mesh | Inside) -> Inside:
    return mesh if isinstance(mesh, Inside) else Inside(mesh)
