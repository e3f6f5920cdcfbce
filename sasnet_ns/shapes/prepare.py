"""From a name, a file or a shape to what training starts from: cleaned, with normals, in box units."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sdf_tools.errors import ShapeWarning

if TYPE_CHECKING:
    from sdf_tools.geometry import Mesh, NormalizedShape, PointCloud, Shape


def prepare_shape(shape: Shape | str, normals: bool = True, orientation: str = "check") -> NormalizedShape:
    """Read a shape if it is a name or a file, find its inside, make a raw cloud ready, put it into box units.

    Every change is said as a ``ShapeWarning``.

    Args:
        shape: a mesh or point cloud, a name, or a file.
        normals: whether the side matters: without it the triangles of a mesh and the normals of a cloud are left as
            they are, and a cloud needs none.
        orientation: ``check`` mends triangles and given normals where that is certain and refuses what would be a
            guess, ``guess`` takes the better guess, ``trust`` takes them as they are.

    Raises:
        ShapeError: there is no such shape, or it cannot be fitted.
    """
    from sasnet_ns.shapes.named import resolve_shape
    from sdf_tools.geometry import Mesh, PointCloud, normalize
    from sdf_tools.io.loading import validate_for_fitting

    resolved = shape if isinstance(shape, Mesh | PointCloud) else resolve_shape(shape)
    validate_for_fitting(resolved)
    if isinstance(resolved, Mesh):
        return normalize(_prepare_mesh(resolved, orientation if normals else "trust"))
    return normalize(_prepare_cloud(resolved, normals, orientation))


def _prepare_mesh(mesh: Mesh, orientation: str) -> Mesh:
    from sdf_tools.mesh.prepare import prepare_mesh

    mesh, notes = prepare_mesh(mesh, orientation)
    _say(mesh.name, notes)
    return mesh


def _prepare_cloud(cloud: PointCloud, normals: bool, orientation: str) -> PointCloud:
    from sdf_tools.cloud.given_normals import mend_normals
    from sdf_tools.cloud.normals import with_normals
    from sdf_tools.cloud.outliers import drop_outliers

    cloud, dropped = drop_outliers(cloud)
    if dropped:
        _say(cloud.name, [f"left out {dropped} points that lie far from all others"])
    if not normals:
        return cloud
    if cloud.normals is None:
        return with_normals(cloud)
    cloud, notes = mend_normals(cloud, orientation)
    _say(cloud.name, notes)
    return cloud


def _say(name: str, notes: list[str]) -> None:
    for note in notes:
        warnings.warn(f"'{name}': {note}.", ShapeWarning, stacklevel=4)
