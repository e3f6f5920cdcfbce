"""A shape that the tests of both packages read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdf_tools.geometry import Mesh


def octahedron_sphere(subdivisions: int = 3, radius: float = 2.0) -> Mesh:
    """A closed, outward oriented sphere-like mesh around (10, 0, 0), by splitting an octahedron's faces."""
    corners = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    faces = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    vertices = [tuple(corner.tolist()) for corner in corners]
    index = {vertex: i for i, vertex in enumerate(vertices)}

    def middle(a: int, b: int) -> int:
        point = torch.tensor(vertices[a]) + torch.tensor(vertices[b])
        key = tuple((point / point.norm()).tolist())
        key = tuple(round(value, 12) for value in key)
        if key not in index:
            index[key] = len(vertices)
            vertices.append(key)
        return index[key]

    for _ in range(subdivisions):
        split = []
        for a, b, c in faces:
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            split += [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        faces = split
    points = torch.tensor(vertices, dtype=torch.float64) * radius + torch.tensor([10.0, 0, 0], dtype=torch.float64)
    return Mesh(points, torch.tensor(faces), name="sphere")


@pytest.fixture(scope="session")
def sphere_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sphere of radius 2 around (10, 0, 0) as a .ply file."""
    from sdf_tools.io.loading import save_mesh

    path = tmp_path_factory.mktemp("shapes") / "sphere.ply"
    save_mesh(octahedron_sphere(), path)
    return path
