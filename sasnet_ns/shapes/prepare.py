"""From a name, a file or a shape to what training starts from: cleaned, with normals, in box units."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from sdf_tools.errors import ShapeError, ShapeWarning

if TYPE_CHECKING:
    from torch import Tensor

    from sdf_tools.geometry import Mesh, NormalizedShape, PointCloud, Shape


BYTES_A_FACE, BYTES_A_POINT = 800, 1_600
"""Memory that preparing a shape and its pool takes, measured on 1.6 million triangles and 1.4 million points."""
SAID_FROM = 1 << 30
"""Bytes from which on it is said beforehand."""


def prepare_shape(
    shape: Shape | str, normals: bool = True, orientation: str = "check", max_points: int | None = None
) -> NormalizedShape:
    """Read a shape if it is a name or a file, find its inside, make a raw cloud ready, put it into box units.

    Clouds are prepared (:func:`sdf_tools.cloud.preparation.prepare_cloud`): repeated points merged, strays left out,
    noise taken off, missing normals estimated and turned outward, given ones checked. Every change is said as a
    ``ShapeWarning``.

    Args:
        shape: a mesh or point cloud, a name, or a file.
        normals: whether the side matters: without it the triangles of a mesh and the normals of a cloud are left as
            they are, and a cloud needs none.
        orientation: ``check`` mends triangles and given normals where that is certain and refuses what would be a
            guess, ``guess`` takes the better guess, ``trust`` takes them as they are.
        max_points: of a cloud that are kept, see :func:`~sdf_tools.cloud.preparation.prepare_cloud`; None for its
            default.

    Raises:
        ShapeError: there is no such shape, it cannot be fitted, or it needs more memory than it may take
            (:func:`sdf_tools.io.limits.memory_limit`).
    """
    from sasnet_ns.shapes.named import resolve_shape
    from sdf_tools.geometry import Mesh, PointCloud, normalize
    from sdf_tools.io.loading import validate_for_fitting

    resolved = shape if isinstance(shape, Mesh | PointCloud) else resolve_shape(shape)
    validate_for_fitting(resolved)
    _estimate_memory(resolved, max_points)
    if isinstance(resolved, Mesh):
        return normalize(_prepare_mesh(resolved, orientation if normals else "trust"))
    cloud, noise = _prepare_cloud(resolved, normals, orientation, max_points)
    normalized = normalize(cloud)
    return replace(normalized, noise=noise * normalized.scale)


def require_inside(name: str, distances: Tensor) -> None:
    """Refuse to train on samples that show no inside: the field would have no surface.

    Args:
        name: of the shape.
        distances: (N,) signed distances of the samples.

    Raises:
        ShapeError: none of them is negative, or one is no number.
    """
    if not bool(distances.isfinite().all()):
        raise ShapeError(f"'{name}': some signed distances are no numbers; see `sdf-tools info`.")
    if not bool((distances < 0).any()):
        raise ShapeError(
            f"'{name}': no sample lies inside, so there is no surface that a signed distance could show; see "
            "`sdf-tools info`, and `sdf-tools repair` for faces that look inward or leave holes."
        )


def _estimate_memory(shape: Shape, max_points: int | None) -> None:
    """Say how much memory a large shape will take before the work begins, or refuse what there is not."""
    from sdf_tools.cloud.thinning import MOST_POINTS
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.limits import require_memory, size_text

    if isinstance(shape, Mesh):
        count, needed, what = shape.faces.shape[0], BYTES_A_FACE * shape.faces.shape[0], "triangles"
    else:
        count, what = shape.points.shape[0], "points"
        needed = BYTES_A_POINT * min(count, MOST_POINTS if max_points is None else max_points)
    require_memory(needed, f"{shape.name}, {count:,} {what}")
    if needed > SAID_FROM:
        _say(shape.name, [f"{count:,} {what}: preparing them takes about {size_text(needed)} of memory"])


def _prepare_mesh(mesh: Mesh, orientation: str) -> Mesh:
    from sdf_tools.mesh.prepare import prepare_mesh

    mesh, notes = prepare_mesh(mesh, orientation)
    _say(mesh.name, notes)
    return mesh


def _prepare_cloud(
    cloud: PointCloud, normals: bool, orientation: str, max_points: int | None
) -> tuple[PointCloud, float]:
    """The cloud made ready, and the noise that it came with, in its own units."""
    from sdf_tools.cloud.preparation import prepare_cloud
    from sdf_tools.cloud.thinning import MOST_POINTS

    most = MOST_POINTS if max_points is None else max_points
    prepared = prepare_cloud(cloud, normals, max_points=most, orientation=orientation)
    _say(cloud.name, [*prepared.said])
    return prepared.cloud, 0.0 if prepared.quality is None else prepared.quality.noise


def _say(name: str, notes: list[str]) -> None:
    for note in notes:
        warnings.warn(f"'{name}': {note}.", ShapeWarning, stacklevel=4)
