"""Shapes with known answers, for the tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from sdf_tools.geometry import Mesh, PointCloud


def sphere(radius: float = 1.0, center: tuple[float, float, float] = (0, 0, 0), subdivisions: int = 2) -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    vertices = torch.from_numpy(ball.vertices.copy()) + torch.tensor(center, dtype=torch.float64)
    return Mesh(vertices, torch.from_numpy(ball.faces.astype("int64")), name="sphere")


def inside_out(mesh: Mesh) -> Mesh:
    return replace(mesh, faces=mesh.faces.flip(1))


def join(a: Mesh, b: Mesh) -> Mesh:
    return Mesh(torch.cat([a.vertices, b.vertices]), torch.cat([a.faces, b.faces + len(a.vertices)]), name="joined")


def box() -> Mesh:
    import trimesh

    cube = trimesh.creation.box()
    return Mesh(torch.from_numpy(cube.vertices.copy()), torch.from_numpy(cube.faces.astype("int64")), name="box")


def box_distance(points: torch.Tensor) -> torch.Tensor:
    q = points.abs() - 0.5
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


def cloud(count: int = 4000) -> PointCloud:
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    return PointCloud(points.double(), points.double())
