"""Signed and unsigned distance and occupancy: ours beside Open3D, libigl, point-cloud-utils and trimesh.

Every library gets the same points in the same (random) order and is timed end to end, arrays in and arrays out, the
best of three (of fewer once two seconds are spent), structures built beforehand where the library lets one. Errors
are against libigl in float64: its closest triangle, and the side by its winding number.
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

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.geometry import Mesh, normalize
from sdf_tools.io.loading import load
from sdf_tools.pools import build_sdf_pool
from sdf_tools.sampling import near_surface, sample_surface
from sdf_tools.topology import first_occurrences, is_watertight

MESHES = (
    "armadillo.obj",
    "fandisk.obj",
    "ADIS16480.stl",
    "spot.obj",
    "bunny.ply",
    "bunny_zippered.ply",
    "beetle.obj",
    "lucy.ply",
    "dragon.ply",
    "dragon_435k.npz",
)
JOBS = ("signed distance", "unsigned distance", "occupancy")


@dataclass
class Row:
    """One library, one job, one kind of points."""

    mesh: str
    job: str
    points: str
    library: str
    kpts_per_s: float
    max_error: float
    wrong_signs: int


def run(json_path: Path | None, quick: bool) -> None:
    """Time every library on every job; print tables and write them as JSON."""
    names = ("fandisk.obj",) if quick else MESHES
    count = 20_000 if quick else 100_000
    rows: list[Row] = []
    for name in names:
        path = SHARED / "meshes" / name
        if not path.is_file():
            print(f"{name}: skipped, '{path}' is not here")
            continue
        mesh = normalize(load(path)).shape
        assert isinstance(mesh, Mesh)
        found = _one_mesh(name, mesh, count)
        _show(found)
        rows += found
    write_rows(json_path, rows)


def _one_mesh(name: str, mesh: Mesh, count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    on = sample_surface(mesh, count, seed=0).points.numpy()
    clouds = {
        "uniform": rng.uniform(-0.5, 0.5, (count, 3)),
        "coarse": near_surface(on, 0.1, rng),
        "fine": near_surface(on, 0.001, rng),
    }
    contenders = _contenders(mesh)
    rows = []
    for kind, points in clouds.items():
        truth = _truth(mesh, points)
        for job in JOBS:
            for library, function in contenders[job].items():
                try:
                    some = points if library != "trimesh" else points[:2000]
                    seconds, answer = best_time(partial(function, some), enough=2.0)
                except Exception as error:
                    print(f"{library}, {job}: {type(error).__name__}: {str(error).splitlines()[0]}")
                    continue
                rows.append(_row(name, job, kind, library, seconds, np.asarray(answer), truth))
    took, _ = best_time(lambda: build_sdf_pool(mesh, count), 1)
    print(f"{name}: {len(mesh.faces):,} faces; a pool of {count:,} points takes {took:.1f} s, set-up included")
    return rows


def _truth(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """libigl's float64 distances, negative where its winding number is beyond one half."""
    import igl

    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    winding = igl.fast_winding_number(vertices, faces, points)
    inside = np.abs(winding) > 0.5 if is_watertight(first_occurrences(vertices)[1][faces]) else winding > 0.5
    distance = np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0])
    return np.where(inside, -distance, distance)


def _row(name: str, job: str, kind: str, library: str, seconds: float, answer: np.ndarray, truth: np.ndarray) -> Row:
    truth = truth[: len(answer)]
    clear = np.abs(truth) > 1e-6  # nobody can be asked for the sign of a point on the surface
    if job == "occupancy":
        error, wrong = 0.0, int(((answer > 0.5) != (truth < 0))[clear].sum())
    elif job == "unsigned distance":
        error, wrong = float(np.abs(np.abs(answer) - np.abs(truth)).max()), 0
    else:
        error = float(np.abs(np.abs(answer) - np.abs(truth)).max())
        wrong = int(((answer < 0) != (truth < 0))[clear].sum())
    return Row(name, job, kind, library, len(answer) / seconds / 1000, error, wrong)


def _contenders(mesh: Mesh) -> dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]]:
    """Per job, every library that is installed."""
    jobs: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {job: {} for job in JOBS}
    vertices = np.ascontiguousarray(mesh.vertices.numpy())
    faces = np.ascontiguousarray(mesh.faces.numpy())
    signed, unsigned = SignedDistance(mesh), SignedDistance(mesh, "unsigned")
    jobs["signed distance"]["sdf_tools"] = lambda p: signed(torch.from_numpy(p)).numpy()
    jobs["unsigned distance"]["sdf_tools"] = lambda p: unsigned(torch.from_numpy(p)).numpy()
    jobs["occupancy"]["sdf_tools"] = lambda p: signed.contains(torch.from_numpy(p)).numpy()
    for add in (_add_libigl, _add_open3d, _add_pcu, _add_trimesh):
        try:
            add(jobs, vertices, faces)
        except (ImportError, OSError) as error:
            print(f"{add.__name__[5:]}: skipped ({error})")
    return jobs


def _add_libigl(jobs: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import igl

    kinds = igl.SignedDistanceType
    for label, kind in (
        ("libigl pseudonormal", kinds.SIGNED_DISTANCE_TYPE_PSEUDONORMAL),
        ("libigl fast winding", kinds.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER),
    ):
        jobs["signed distance"][label] = lambda p, k=kind: igl.signed_distance(p, vertices, faces, k)[0]
    jobs["unsigned distance"]["libigl"] = lambda p: np.sqrt(igl.point_mesh_squared_distance(p, vertices, faces)[0])
    jobs["occupancy"]["libigl"] = lambda p: igl.fast_winding_number(vertices, faces, p)


def _add_open3d(jobs: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    as_tensor = open3d.core.Tensor.from_numpy
    scene.add_triangles(as_tensor(vertices.astype(np.float32)), as_tensor(faces.astype(np.uint32)))
    jobs["signed distance"]["Open3D, 3 rays"] = lambda p: scene.compute_signed_distance(
        p.astype(np.float32), nsamples=3
    ).numpy()
    jobs["unsigned distance"]["Open3D"] = lambda p: scene.compute_distance(p.astype(np.float32)).numpy()
    jobs["occupancy"]["Open3D, 3 rays"] = lambda p: scene.compute_occupancy(p.astype(np.float32), nsamples=3).numpy()


def _add_pcu(jobs: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import point_cloud_utils as pcu

    jobs["signed distance"]["point-cloud-utils"] = lambda p: pcu.signed_distance_to_mesh(p, vertices, faces)[0]
    jobs["unsigned distance"]["point-cloud-utils"] = lambda p: pcu.closest_points_on_mesh(p, vertices, faces)[0]
    jobs["occupancy"]["point-cloud-utils"] = lambda p: pcu.triangle_soup_fast_winding_number(vertices, faces, p)


def _add_trimesh(jobs: dict[str, Any], vertices: np.ndarray, faces: np.ndarray) -> None:
    import rtree  # noqa: F401 (trimesh's proximity queries need it)
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    jobs["signed distance"]["trimesh"] = lambda p: -trimesh.proximity.signed_distance(mesh, p)
    jobs["occupancy"]["trimesh"] = lambda p: mesh.contains(p)


def _show(rows: list[Row]) -> None:
    kinds = list(dict.fromkeys(row.points for row in rows))
    lines = []
    for job in JOBS:
        for library in dict.fromkeys(row.library for row in rows if row.job == job):
            mine = [row for row in rows if row.job == job and row.library == library]
            speeds = {row.points: f"{row.kpts_per_s:.0f}" for row in mine}
            error = "-" if job == "occupancy" else f"{max(row.max_error for row in mine):.1e}"
            wrong = "-" if job == "unsigned distance" else str(sum(row.wrong_signs for row in mine))
            lines.append((job, library, *(speeds.get(kind, "-") for kind in kinds), error, wrong))
    title = f"{rows[0].mesh}: thousand points per second, and largest error / wrong signs of all points"
    print_table(title, ("job", "library"), (*kinds, "max error", "wrong signs"), lines)
