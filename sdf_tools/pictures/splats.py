"""Point clouds as something that can be drawn: a small tile or diamond for every point."""

from __future__ import annotations

import numpy as np
import torch

from sdf_tools.geometry import Mesh, PointCloud, for_numpy
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.topology import first_occurrences

MOST = 150_000  # points that are drawn; more would not be told apart
_SIDES = 6


def cloud_as_mesh(cloud: PointCloud, values: torch.Tensor | None = None, seed: int = 0) -> tuple[Mesh, torch.Tensor]:
    """A mesh that shows a cloud: hexagons at a right angle to the normals, or diamonds where there are none.

    Args:
        cloud: with at least one point; at most 150,000 of them are shown.
        values: (N,) or (N, C) per point, for instance errors.
        seed: of the choice of points.

    Returns:
        The mesh, coloured like the cloud if that has colours, and the ``values`` of its vertices (zeros without).
    """
    cloud = for_numpy(cloud)
    rows = torch.randperm(cloud.points.shape[0], generator=torch.Generator().manual_seed(seed))[:MOST]
    points = np.ascontiguousarray(cloud.points[rows].double().numpy())
    keep, place = first_occurrences(points + 0.0)  # points that are there several times are no neighbours
    single = np.ascontiguousarray(points[keep])
    distance = nearest_neighbours(single)(single, min(7, len(single)))[0][place, -1]
    spacing = float(np.median(distance)) / 2
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    # Each point covers the gap to its neighbours, within bounds that keep strays from growing.
    radius = np.clip(0.75 * distance / 2, 0.5 * spacing, 2 * spacing).clip(1e-4 * extent, 0.02 * extent)[:, None]
    if cloud.normals is None:
        offsets = np.concatenate([np.eye(3), -np.eye(3)])
        faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
        vertices = points[:, None] + 0.6 * radius[:, None] * offsets
    else:
        normals = cloud.normals[rows].double().numpy()
        least = np.eye(3)[np.abs(normals).argmin(1)]
        u = np.cross(normals, least)
        u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-12)
        v = np.cross(normals, u)
        angle = 2 * np.pi * np.arange(_SIDES) / _SIDES
        ring = np.cos(angle)[:, None] * u[:, None] + np.sin(angle)[:, None] * v[:, None]
        vertices = points[:, None] + radius[:, None] * ring
        faces = np.array([[0, i, i + 1] for i in range(1, _SIDES - 1)])
    count = vertices.shape[1]
    all_faces = (faces[None] + count * np.arange(len(points))[:, None, None]).reshape(-1, 3)
    colors = None if cloud.colors is None else cloud.colors[rows].double().repeat_interleave(count, 0)
    shown = torch.zeros(len(points)) if values is None else values[rows]
    mesh = Mesh(torch.from_numpy(vertices.reshape(-1, 3)), torch.from_numpy(all_faces), None, colors, cloud.name)
    return mesh, shown.repeat_interleave(count, 0)
