"""From points to one closed mesh in seconds, without a network."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from sdf_tools.cloud.preparation import prepare_cloud
from sdf_tools.cloud.quality import point_spacings
from sdf_tools.cloud.thinning import MOST_POINTS
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh, NormalizedShape, PointCloud, for_numpy, normalize
from sdf_tools.spatial.neighbours import nearest_neighbours
from sdf_tools.topology import drop_unreferenced, face_components, face_cross

SMALLEST_PIECE = 0.02  # of the largest piece's faces
FEWEST, MOST = 64, 512
FOLLOWED = 0.7  # cells that follow no more of the noise than is left after cleaning, standard deviations
COARSE = 8  # cells; the points say where the surface is


def reconstruct(
    cloud: PointCloud,
    *,
    method: Literal["imls", "poisson"] = "imls",
    resolution: int | None = None,
    keep_outliers: bool = False,
    denoise: bool = True,
    trim: float | None = None,
    all_pieces: bool = False,
    max_points: int = MOST_POINTS,
    orientation: Literal["check", "trust"] = "check",
) -> Mesh:
    """Mesh a point cloud, prepared as for fits (:func:`~sdf_tools.cloud.preparation.prepare_cloud`).

    Args:
        cloud: points, with or without normals, at least 16.
        method: ``imls``, marching cubes of the cloud's own signed distance
            (:class:`~sdf_tools.distance.cloud_distance.CloudDistance`); ``poisson``, Open3D's screened Poisson
            reconstruction (Kazhdan and Hoppe 2013) of the same prepared points.
        resolution: cells along the longest side; about one a spacing of the points if left out, 64 to 512. For
            ``poisson`` the depth of its tree is the logarithm.
        keep_outliers: leave strays in.
        denoise: move noisy points onto the surface they tell first.
        trim: drop faces further than this many spacings from every point, and those that face away from the nearest,
            which leaves borders where no point was near and one side of open sheets.
        all_pieces: keep pieces with less than 2 % of the largest one's faces.
        max_points: larger clouds are thinned to this many, evenly.
        orientation: ``trust`` takes given normals as they are, ``check`` mends them where they are wrong.

    Returns:
        The mesh in the cloud's units, with the colours of the nearest points where the cloud has ``colors``. What was
        done to the cloud is warned about.

    Raises:
        ValueError: no such method, a resolution below 8, or a ``trim`` that is not positive.
        ShapeError: fewer than 16 points, all on one line, or no surface.
        MissingLibraryError: ``poisson`` without Open3D.
    """
    if method not in ("imls", "poisson"):
        raise ValueError(f"method must be imls or poisson, not '{method}'.")
    if resolution is not None and not resolution >= COARSE:
        raise ValueError(f"The resolution must be at least {COARSE} cells along the longest side; got {resolution}.")
    if trim is not None and not trim > 0:
        raise ValueError(f"trim must be a positive number of spacings, not {trim:g}.")
    cloud = for_numpy(cloud)
    prepared = prepare_cloud(
        cloud, keep_outliers=keep_outliers, denoise=denoise, max_points=max_points, orientation=orientation
    )
    if prepared.quality is None:
        raise ShapeError(f"'{cloud.name}' has {len(prepared.cloud.points)} points; a surface takes at least 16.")
    _refuse_a_line(prepared.cloud)
    for sentence in prepared.said:
        warnings.warn(f"'{cloud.name}': {sentence}.", stacklevel=2)
    frame = normalize(prepared.cloud)
    if resolution is None:
        # Finer cells would follow what is left of the noise, where there is least of it.
        least = float(np.quantile(prepared.quality.noises, 0.1))
        cell = max(prepared.quality.spacing, FOLLOWED * least) * frame.scale
        resolution = int(np.clip(round(1.1 / max(cell, 1e-9)), FEWEST, MOST))
    mesh = _imls(frame, resolution) if method == "imls" else _poisson(frame, resolution)
    if not all_pieces:
        mesh = drop_crumbs(mesh)
    if trim is not None:
        mesh = _trim(mesh, frame, trim)
    mesh = replace(frame.mesh_to_world(mesh), name=cloud.name)
    colors = getattr(cloud, "colors", None)
    if colors is not None:
        at = nearest_neighbours(np.ascontiguousarray(cloud.points.double().numpy()))(mesh.vertices.numpy(), 1)[1][:, 0]
        mesh = replace(mesh, vertex_colors=colors[torch.from_numpy(at)].double())
    return mesh


def drop_crumbs(mesh: Mesh, share: float = SMALLEST_PIECE) -> Mesh:
    """The mesh without pieces that have less than ``share`` of the largest piece's faces."""
    count, label = face_components(mesh.faces.numpy())
    if count <= 1:
        return mesh
    size = np.bincount(label, minlength=count)
    return _keep(mesh, (size >= share * size.max())[label])


def _keep(mesh: Mesh, faces: np.ndarray) -> Mesh:
    return drop_unreferenced(replace(mesh, faces=mesh.faces[torch.from_numpy(faces)]))


def _imls(frame: NormalizedShape, resolution: int) -> Mesh:
    assert isinstance(frame.shape, PointCloud)
    distance = SignedDistance(frame.shape)
    cells = max(2, round(resolution / 0.9))  # the shape fills nine tenths of the box
    # Where no point is near there is no piece of its own to find.
    return extract_mesh(
        lambda points: distance(points.double()),
        cells,
        search="growth",
        coarse_resolution=min(COARSE, cells),
        probes=0,
        seeds=frame.shape.points,
        cap=True,  # few points may leave the surface so round that it reaches the box
    )


def _poisson(frame: NormalizedShape, resolution: int) -> Mesh:
    try:
        import open3d
    except ImportError:
        raise MissingLibraryError("--method poisson needs Open3D, which is not installed: pip install open3d") from None
    shape = frame.shape
    assert isinstance(shape, PointCloud) and shape.normals is not None
    given = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(shape.points.double().numpy()))
    given.normals = open3d.utility.Vector3dVector(shape.normals.double().numpy())
    depth = int(np.clip(round(np.log2(resolution)), 5, 12))
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        made, _ = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(given, depth=depth)
    if len(made.triangles) == 0:
        raise ShapeError(f"Open3D's Poisson reconstruction found no surface in '{shape.name}'.")
    vertices = torch.from_numpy(np.array(made.vertices, np.float64))
    return Mesh(vertices, torch.from_numpy(np.array(made.triangles, np.int64)))


def _trim(mesh: Mesh, frame: NormalizedShape, trim: float) -> Mesh:
    shape = frame.shape
    assert isinstance(shape, PointCloud) and shape.normals is not None
    points, centers = shape.points.double().numpy(), mesh.vertices[mesh.faces].mean(1).numpy()
    along = face_cross(mesh.vertices.numpy(), mesh.faces.numpy())
    distance, index = nearest_neighbours(np.ascontiguousarray(points))(centers, 1)
    near = distance[:, 0] <= trim * point_spacings(points)[index[:, 0]]
    # The other side of a sheet is as near, but nobody saw it.
    near &= np.einsum("ij,ij->i", along, shape.normals.double().numpy()[index[:, 0]]) > 0
    if not near.any():
        raise ShapeError(f"No face lies within {trim:g} spacings of a point; a larger --trim keeps some.")
    return _keep(mesh, near)


def _refuse_a_line(cloud: PointCloud) -> None:
    points = cloud.points.double().numpy()
    across = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if across[1] <= 1e-6 * across[0]:
        raise ShapeError(f"The points of '{cloud.name}' lie on one line, or at one place: there is no surface.")
