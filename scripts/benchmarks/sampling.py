"""Samplers and normals: ours beside Open3D, trimesh, libigl and point-cloud-utils, speed and quality.

``quality`` is, for uniform samples, the largest distance from the surface over the box; for blue noise, the smallest
distance between two samples over that of the densest possible packing (white noise: about 0.01); for normals, the share
on the outward side in per cent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.report import best_time, print_table, write_rows
from benchmarks.shapes import SHARED

from sdf_tools.cloud.normals import estimate_normals, orient_normals
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import Mesh, normalize
from sdf_tools.io.loading import load
from sdf_tools.sampling import sample_poisson_disk, sample_surface

Sampler = Callable[[int], np.ndarray]


@dataclass
class Row:
    """One library at one job."""

    job: str
    library: str
    count: int
    seconds: float
    quality: float


def run(json_path: Path | None, quick: bool) -> None:
    """Time every library on every job; print a table and write it as JSON."""
    path = SHARED / "meshes" / ("fandisk.obj" if quick else "armadillo.obj")
    if not path.is_file():
        print(f"skipped: '{path}' is not here")
        return
    mesh = normalize(load(path)).shape
    assert isinstance(mesh, Mesh)
    uniform, blue, normals = (100_000, 2_000, 3_000) if quick else (1_000_000, 20_000, 20_000)
    rows: list[Row] = []
    uniform_samplers, blue_samplers = _samplers(mesh)
    distance = SignedDistance(mesh, "unsigned")
    area = float(torch.linalg.cross(*_edges(mesh)).norm(dim=1).sum() / 2)
    for library, sampler in uniform_samplers.items():
        seconds, points = _best(sampler, uniform)
        some = torch.from_numpy(np.ascontiguousarray(points[:20_000], dtype=np.float64))
        rows.append(Row("uniform", library, len(points), seconds, float(distance(some).max())))
    for library, sampler in blue_samplers.items():
        seconds, points = _best(sampler, blue, repeats=1)
        rows.append(Row("blue noise", library, len(points), seconds, _spread(points, area)))
    rows += _normals(mesh, normals)
    _show(rows, path.name)
    write_rows(json_path, rows)


def _edges(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return b - a, c - a


def _best(sampler: Sampler, count: int, repeats: int = 3) -> tuple[float, np.ndarray]:
    sampler(100)  # compile and build outside the clock
    return best_time(lambda: sampler(count), repeats)


def _spread(points: np.ndarray, area: float) -> float:
    from scipy.spatial import cKDTree

    closest = cKDTree(points).query(points, k=2)[0][:, 1].min()
    return float(closest / (2 * np.sqrt(area / (2 * np.sqrt(3) * len(points)))))


def _samplers(mesh: Mesh) -> tuple[dict[str, Sampler], dict[str, Sampler]]:
    vertices = np.ascontiguousarray(mesh.vertices.numpy())
    faces = np.ascontiguousarray(mesh.faces.numpy())
    uniform: dict[str, Sampler] = {"sdf_tools": lambda n: sample_surface(mesh, n).points.numpy()}
    blue: dict[str, Sampler] = {
        "sdf_tools": lambda n: sample_poisson_disk(mesh, n).points.numpy(),
        "sdf_tools, oversampling 5": lambda n: sample_poisson_disk(mesh, n, oversampling=5).points.numpy(),
    }
    for add in (_add_open3d, _add_trimesh, _add_libigl, _add_pcu):
        try:
            add(uniform, blue, vertices, faces)
        except (ImportError, OSError) as error:
            print(f"{add.__name__[5:]}: skipped ({error})")
    return uniform, blue


def _add_open3d(uniform: dict[str, Any], blue: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import open3d

    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(vertices), open3d.utility.Vector3iVector(faces.astype(np.int32))
    )
    uniform["Open3D"] = lambda n: np.asarray(mesh.sample_points_uniformly(n, use_triangle_normal=True).points)
    blue["Open3D"] = lambda n: np.asarray(mesh.sample_points_poisson_disk(n).points)


def _add_trimesh(uniform: dict[str, Any], blue: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    uniform["trimesh"] = lambda n: np.asarray(trimesh.sample.sample_surface(mesh, n, seed=0)[0])
    blue["trimesh"] = lambda n: np.asarray(trimesh.sample.sample_surface_even(mesh, n, seed=0)[0])


def _add_libigl(uniform: dict[str, Any], blue: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import igl

    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    uniform["libigl"] = lambda n: igl.random_points_on_mesh(n, vertices, faces)[2]
    # libigl takes a radius, not a number: the one that gives about n points.
    blue["libigl"] = lambda n: igl.blue_noise(vertices, faces, 0.75 * 2 * np.sqrt(area / (2 * np.sqrt(3) * n)))[2]


def _add_pcu(uniform: dict[str, Any], blue: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import point_cloud_utils as pcu

    def draw(n: int) -> np.ndarray:
        ids, weights = pcu.sample_mesh_random(vertices, faces, n)
        return pcu.interpolate_barycentric_coords(faces, ids, weights, vertices)

    uniform["point-cloud-utils"] = draw
    # Its Poisson-disk sampler does not come back in a minute at these sizes, so it is left out.


def _normals(mesh: Mesh, count: int) -> list[Row]:
    samples = sample_surface(mesh, count, seed=1)
    estimate_normals(samples.points[:100])
    orient_normals(samples.points[:100], samples.normals[:100])
    rows = []
    took, (unsigned, _) = best_time(lambda: estimate_normals(samples.points, 12), 1)
    rows.append(Row("plane normals", "sdf_tools", count, took, float("nan")))
    for method in ("winding", "mst"):
        took, turned = best_time(partial(orient_normals, samples.points, unsigned, method), 1)
        good = 100 * float(((turned * samples.normals).sum(1) > 0).double().mean())
        rows.append(Row("orientation", f"sdf_tools {method}", count, took, good))
    try:
        import open3d
    except (ImportError, OSError):
        return rows
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(samples.points.numpy()))
    took, _ = best_time(lambda: cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(12)), 1)
    rows.append(Row("plane normals", "Open3D", count, took, float("nan")))
    took, _ = best_time(lambda: cloud.orient_normals_consistent_tangent_plane(12), 1)
    good = 100 * float((np.einsum("ij,ij->i", np.asarray(cloud.normals), samples.normals.numpy()) > 0).mean())
    rows.append(Row("orientation", "Open3D mst", count, took, max(good, 100 - good)))
    return rows


def _show(rows: list[Row], name: str) -> None:
    lines = []
    for row in sorted(rows, key=lambda row: row.job):
        quality = "-" if np.isnan(row.quality) else f"{row.quality:.3g}"
        lines.append((row.job, row.library, f"{row.count:,}", f"{row.seconds:.2f}", quality))
    print_table(f"sampling {name}", ("job", "library"), ("points", "seconds", "quality"), lines)
