"""From a name, a file or a shape to what training starts from: cleaned, with normals, in box units."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdf_tools.geometry import NormalizedShape, Shape


def prepare_shape(shape: Shape | str, normals: bool = True) -> NormalizedShape:
    """Read a shape if it is a name or a file, make a raw cloud ready, put it into box units.

    A cloud without normals is taken as raw: points far from all others are left out, with a warning that says how many,
    and normals are estimated and turned outward.

    Args:
        shape: a mesh or point cloud, a name, or a file.
        normals: whether a cloud needs them.

    Raises:
        ShapeError: there is no such shape, or it cannot be fitted.
    """
    from sasnet_ns.shapes.named import resolve_shape
    from sdf_tools.geometry import Mesh, PointCloud, normalize
    from sdf_tools.io.loading import validate_for_fitting

    resolved = shape if isinstance(shape, Mesh | PointCloud) else resolve_shape(shape)
    validate_for_fitting(resolved)
    if isinstance(resolved, PointCloud) and resolved.normals is None:
        from sdf_tools.cloud.normals import with_normals
        from sdf_tools.cloud.outliers import drop_outliers

        resolved, dropped = drop_outliers(resolved)
        if dropped:
            warnings.warn(f"'{resolved.name}': left out {dropped} points that lie far from all others.", stacklevel=2)
        resolved = with_normals(resolved) if normals else resolved
    return normalize(resolved)
