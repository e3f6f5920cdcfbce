"""What turns the clouds of the benchmark into meshes: ours, Open3D's screened Poisson at its best, pymeshlab's."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sdf_tools.geometry import Mesh, PointCloud

FITTED_STEPS = 1_000

Method = Callable[[PointCloud, bool], Iterator["Attempt"]]


@dataclass(frozen=True)
class Attempt:
    """A mesh, the settings that made it, and the processor seconds it took."""

    mesh: Mesh
    settings: str
    seconds: float


def timed(work: Callable[[], Mesh], settings: str) -> Attempt:
    """Processor time of all threads."""
    started = time.process_time()
    mesh = work()
    return Attempt(mesh, settings, time.process_time() - started)


def ours(cloud: PointCloud, quick: bool) -> Iterator[Attempt]:
    """``sdf_tools.reconstruct`` as it is: nothing is chosen by hand."""
    from sdf_tools.reconstruction import reconstruct

    yield timed(lambda: reconstruct(cloud), "")


def ours_fitted(cloud: PointCloud, quick: bool) -> Iterator[Attempt]:
    """SASNet fitted for 1,000 steps to the prepared cloud, all else as it is."""
    from sasnet_ns.fitting.shape import ShapeFit, fit_shape
    from sasnet_ns.training.recipe import Recipe

    def work() -> Mesh:
        fitted = fit_shape(cloud, ShapeFit(recipe=Recipe(steps=FITTED_STEPS)), device="cpu", progress=False)
        return fitted.extract_mesh(256)

    yield timed(work, f"{FITTED_STEPS:,} steps")


def open3d_poisson(cloud: PointCloud, quick: bool) -> Iterator[Attempt]:
    """Screened Poisson on normals of k neighbours, oriented by Open3D; strays removed first by Open3D.

    Every pair of k and depth; the caller keeps the best, which its user could not know.
    """
    importlib.import_module("open3d")  # its loading is no part of the time
    for k in (12, 60):
        for depth in (7, 9):
            yield timed(lambda k=k, depth=depth: _poisson(cloud, k, depth), f"k={k} d={depth}")  # type: ignore[misc]


def _poisson(cloud: PointCloud, k: int, depth: int) -> Mesh:
    import open3d

    pcd = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.points.numpy()))
    if cloud.normals is not None:
        pcd.normals = open3d.utility.Vector3dVector(cloud.normals.numpy())
    pcd, _ = pcd.remove_statistical_outlier(20, 2.0)
    if cloud.normals is None:
        pcd.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(k))
        pcd.orient_normals_consistent_tangent_plane(min(k, 30))
    made, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(pcd, depth=depth, n_threads=1)
    vertices, faces = np.asarray(made.vertices).copy(), np.asarray(made.triangles).astype(np.int64)
    from sdf_tools.topology import signed_volume

    if signed_volume(vertices, faces) < 0:  # the tree of tangent planes starts on either side
        faces = faces[:, ::-1].copy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))


def pymeshlab_poisson(cloud: PointCloud, quick: bool) -> Iterator[Attempt]:
    """MeshLab's normals (smoothed once), then its screened Poisson."""
    for k, depth in ((20, 8),) if quick else ((12, 9), (60, 7)):
        yield timed(lambda k=k, depth=depth: _meshlab(cloud, k, depth), f"k={k} d={depth}")  # type: ignore[misc]


def _meshlab(cloud: PointCloud, k: int, depth: int) -> Mesh:
    import pymeshlab

    normals = None if cloud.normals is None else cloud.normals.numpy()
    given = {} if normals is None else {"v_normals_matrix": normals}
    session = pymeshlab.MeshSet(verbose=False)
    session.add_mesh(pymeshlab.Mesh(vertex_matrix=cloud.points.numpy(), **given))
    if normals is None:
        session.compute_normal_for_point_clouds(k=k, smoothiter=1)
    session.generate_surface_reconstruction_screened_poisson(depth=depth, preclean=True, threads=1)
    made = session.current_mesh()
    vertices, faces = np.asarray(made.vertex_matrix()).copy(), np.asarray(made.face_matrix()).astype(np.int64)
    from sdf_tools.topology import signed_volume

    if signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1].copy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))


def methods(fitted: bool = True) -> dict[str, Method]:
    """Every method that can run here; ``fitted`` includes those that train."""
    found: dict[str, Method] = {"ours": ours, **({"ours fitted": ours_fitted} if fitted else {})}
    if importlib.util.find_spec("open3d"):
        found["Open3D Poisson"] = open3d_poisson
    if importlib.util.find_spec("pymeshlab"):
        found["MeshLab Poisson"] = pymeshlab_poisson
    return found
