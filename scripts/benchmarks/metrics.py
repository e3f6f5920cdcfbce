"""Metrics beside other libraries: the same Chamfer, distances and overlap, with times and values next to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.report import best_time, print_table, write_rows
from benchmarks.shapes import SHARED

from sdf_tools import metrics
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import Mesh, normalize
from sdf_tools.io.loading import load
from sdf_tools.sampling import sample_surface


@dataclass
class Row:
    """One job by one library."""

    job: str
    library: str
    seconds: float
    value: float


def run(json_path: Path | None, quick: bool) -> None:
    """Time every job, print a table and write it as JSON."""
    path = SHARED / "meshes" / "armadillo.obj"
    if not path.is_file():
        print(f"skipped: '{path}' is not here")
        return
    reference = normalize(load(path)).shape
    assert isinstance(reference, Mesh)
    # A prediction with a known flaw: bumps of 2e-4 along the normals.
    shake = 2e-4 * torch.sin(200 * reference.vertices).prod(-1, keepdim=True)
    prediction = Mesh(reference.vertices * (1 + shake), reference.faces, name="prediction")
    count = 50_000 if quick else 300_000
    rows = _nearest(prediction, reference, count)
    rows += _exact(prediction, reference, 20_000 if quick else 200_000)
    rows += _overlap(prediction, reference, 100_000 if quick else 1_000_000)
    rows.append(_time("everything", "sdf_tools.metrics.evaluate", lambda: metrics.evaluate(prediction, reference).iou))
    _show(rows)
    write_rows(json_path, rows)


def _time(job: str, library: str, function: Callable[[], float]) -> Row:
    seconds, value = best_time(function, 2)
    return Row(job, library, seconds, float(value))


def _nearest(prediction: Mesh, reference: Mesh, count: int) -> list[Row]:
    """Nearest-point Chamfer, sum of squared means, on given samples."""
    job = f"Chamfer, {count:,} samples"
    a, b = sample_surface(prediction, count, 0).points, sample_surface(reference, count, 1).points

    def ours() -> float:
        squares = [metrics.nearest_distances(x, y).square().mean() for x, y in ((a, b), (b, a))]
        return float(squares[0] + squares[1])

    def scipy_tree() -> float:
        from scipy.spatial import cKDTree

        pairs = ((a.numpy(), b.numpy()), (b.numpy(), a.numpy()))
        return sum(float((cKDTree(y).query(x, workers=-1)[0] ** 2).mean()) for x, y in pairs)

    def pcu_tree() -> float:
        import point_cloud_utils as pcu

        pairs = ((a.numpy(), b.numpy()), (b.numpy(), a.numpy()))
        return sum(float((pcu.k_nearest_neighbors(x, y, 1)[0] ** 2).mean()) for x, y in pairs)

    return _all(job, {"sdf_tools": ours, "scipy": scipy_tree, "point-cloud-utils": pcu_tree})


def _exact(prediction: Mesh, reference: Mesh, count: int) -> list[Row]:
    """Mean exact distance of samples to the other mesh's triangles, search structures included."""
    points = sample_surface(prediction, count, 0).points
    vertices, faces = reference.vertices.numpy(), reference.faces.numpy()

    def ours() -> float:
        return float(SignedDistance(reference, sign="unsigned")(points).mean())

    def libigl() -> float:
        import igl

        return float(np.sqrt(igl.point_mesh_squared_distance(points.numpy(), vertices, faces)[0]).mean())

    def pcu() -> float:
        import point_cloud_utils

        return float(point_cloud_utils.closest_points_on_mesh(points.numpy(), vertices, faces)[0].mean())

    def open3d() -> float:
        import open3d as o3d

        scene = o3d.t.geometry.RaycastingScene()
        as_tensor = o3d.core.Tensor.from_numpy
        scene.add_triangles(as_tensor(vertices.astype(np.float32)), as_tensor(faces.astype(np.uint32)))
        return float(scene.compute_distance(as_tensor(points.numpy().astype(np.float32))).numpy().mean())

    libraries = {"sdf_tools": ours, "libigl": libigl, "point-cloud-utils": pcu, "Open3D": open3d}
    return _all(f"point to surface, {count:,} samples", libraries)


def _overlap(prediction: Mesh, reference: Mesh, count: int) -> list[Row]:
    """Intersection over union at uniform points, search structures included."""
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5

    def share(inside: Callable[[Mesh], np.ndarray]) -> float:
        a, b = inside(prediction), inside(reference)
        return float((a & b).sum() / (a | b).sum())

    def libigl(mesh: Mesh) -> np.ndarray:
        import igl

        return igl.fast_winding_number(mesh.vertices.numpy(), mesh.faces.numpy(), points.numpy()) > 0.5

    def rays(mesh: Mesh) -> np.ndarray:
        import trimesh

        return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).contains(points.numpy())

    def open3d(mesh: Mesh) -> np.ndarray:
        import open3d as o3d

        scene = o3d.t.geometry.RaycastingScene()
        as_tensor = o3d.core.Tensor.from_numpy
        scene.add_triangles(
            as_tensor(mesh.vertices.numpy().astype(np.float32)), as_tensor(mesh.faces.numpy().astype(np.uint32))
        )
        return scene.compute_occupancy(as_tensor(points.numpy().astype(np.float32)), nsamples=3).numpy() > 0.5

    libraries = {
        "sdf_tools": lambda: share(lambda mesh: metrics.Inside(mesh)(points).numpy()),
        "libigl winding number": lambda: share(libigl),
        "trimesh + embreex": lambda: share(rays),
        "Open3D, 3 rays": lambda: share(open3d),
    }
    return _all(f"IoU, {count:,} points", libraries)


def _all(job: str, libraries: dict[str, Callable[[], float]]) -> list[Row]:
    rows = []
    for library, function in libraries.items():
        try:
            rows.append(_time(job, library, function))
        except (ImportError, OSError) as error:
            print(f"{library}: skipped ({error})")
    return rows


def _show(rows: list[Row]) -> None:
    lines = [(row.job, row.library, f"{row.seconds:.2f}", f"{row.value:.6g}") for row in rows]
    print_table("Metrics: best of two, search structures included", ("job", "library"), ("s", "value"), lines)
