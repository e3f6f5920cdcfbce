"""Overlap of the volumes that two meshes enclose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdf_tools.distance import SignedDistance
from sdf_tools.sampling import sample_surface
from sdf_tools.shapes import Mesh, normalize


@dataclass(frozen=True)
class Overlap:
    """Intersection over union from sample points.

    Attributes:
        iou: points inside both over points inside either; 1 if neither holds any.
        low: lower end of the 95 % confidence interval (Wilson's score).
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
        return Overlap(1.0, 0.0, 1.0, 0)
    share, z2 = both / either, 1.959964**2
    middle = (share + z2 / (2 * either)) / (1 + z2 / either)
    half = np.sqrt(share * (1 - share) * z2 / either + z2**2 / (4 * either**2)) / (1 + z2 / either)
    return Overlap(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)), either)


class Inside:
    """Inside test that asks the winding number only where the surface is near.

    The box of the mesh is cut into cells. Cells that no triangle's bounding box meets lie wholly inside or outside: one
    winding number, at their centre, settles all points in them.
    """

    def __init__(self, mesh: Mesh, distance: SignedDistance | None = None, cells: int = 48) -> None:
        # The exact test; "winding" also spares the choice between the signs, which would cost more than the test.
        self.distance = distance or SignedDistance(mesh, sign="winding")
        vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
        used = vertices[np.unique(faces)]
        self.low, high = used.min(0), used.max(0)
        self.size = max(float((high - self.low).max()), 1e-300) / cells
        self.shape = np.floor((high - self.low) / self.size).astype(int) + 1
        # Count cells of each triangle's bounding box by the corners of the box: a three-dimensional running sum.
        counts = np.zeros(np.prod(self.shape + 1))
        corners = np.floor((vertices[faces] - self.low) / self.size).astype(int)
        first, last = np.clip(corners.min(1), 0, self.shape - 1), np.clip(corners.max(1), 0, self.shape - 1) + 1
        for c in range(8):
            pick = np.where([c & 1, c >> 1 & 1, c >> 2 & 1], last, first)
            keys = np.ravel_multi_index(tuple(pick.T), tuple(self.shape + 1))
            counts += (-1) ** bin(c).count("1") * np.bincount(keys, minlength=len(counts))
        counts = counts.reshape(self.shape + 1)
        touched = counts.cumsum(0).cumsum(1).cumsum(2)[:-1, :-1, :-1] > 0.5
        self.status = np.full(self.shape, -1, dtype=np.int8)
        clear = np.argwhere(~touched)
        if len(clear):
            centers = torch.from_numpy(self.low + (clear + 0.5) * self.size)
            self.status[~touched] = self.distance.contains(centers).numpy()
        # Clear neighbours that disagree: the winding number changes its mind in a hole of the mesh; ask there as well.
        for axis in range(3):
            status = np.moveaxis(self.status, axis, 0)
            differ = (status[:-1] >= 0) & (status[1:] >= 0) & (status[:-1] != status[1:])
            status[:-1][differ] = -1
            status[1:][differ] = -1

    def __call__(self, points: Tensor) -> Tensor:
        """Which of (N, 3) points are inside, boolean."""
        cell = np.floor((points.detach().cpu().double().numpy() - self.low) / self.size).astype(int)
        within = ((cell >= 0) & (cell < self.shape)).all(1)
        inside = np.zeros(len(cell), dtype=bool)
        status = self.status[tuple(cell[within].T)]
        inside[within] = status == 1
        unclear = np.flatnonzero(within)[status < 0]
        if len(unclear):
            inside[unclear] = self.distance.contains(points[torch.from_numpy(unclear)].double()).numpy()
        return torch.from_numpy(inside)


def iou(
    prediction: Mesh | Inside, reference: Mesh | Inside, samples: int = 1_000_000, padding: float = 0.05, seed: int = 0
) -> Overlap:
    """Volumetric IoU at points uniform in the box that holds both meshes, padded by ``padding`` of its longest side.

    Occupancy Networks does the same with 100,000 points. instant-ngp counts points far from the mesh as right by
    construction, NGLOD samples mostly near the surface: their numbers do not compare with these.
    """
    a, b = _as_inside(prediction), _as_inside(reference)
    low = np.minimum(a.low, b.low)
    high = np.maximum(a.low + a.shape * a.size, b.low + b.shape * b.size)
    pad = padding * (high - low).max()
    points = low - pad + np.random.default_rng(seed).random((samples, 3)) * (high - low + 2 * pad)
    return _overlap(a(torch.from_numpy(points)), b(torch.from_numpy(points)))


def iou_near_surface(
    prediction: Mesh | Inside, reference: Mesh, band: float, samples: int = 200_000, seed: int = 0,
    reference_inside: Inside | None = None,
) -> Overlap:  # fmt: skip
    """IoU at points within ``band`` of the reference's surface: area-uniform samples moved along their normals.

    Far more sensitive than the volumetric IoU, since no point lies safely deep inside. NGLOD's gIoU is biased this way.
    """
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
    if isinstance(mesh, Inside):
        return mesh
    normalize(mesh)  # its errors are the clearer ones
    return Inside(mesh)
