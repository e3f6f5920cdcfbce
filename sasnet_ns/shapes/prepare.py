"""From a name, a file or a shape to what training starts from: cleaned, with normals, in box units."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdf_tools.geometry import NormalizedShape, Shape


def prepare_shape(shape: Shape | str, normals: bool = True) -> NormalizedShape:
    """Read a shape if it is a name or a file, make a raw cloud ready, put it into box units.

    Clouds are prepared (:func:`sdf_tools.cloud.preparation.prepare_cloud`): repeated points merged, strays left out,
    noise taken off, missing normals estimated and turned outward, with a warning for each.

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
    if isinstance(resolved, PointCloud):
        from sdf_tools.cloud.preparation import prepare_cloud

        prepared = prepare_cloud(resolved, normals)
        for sentence in prepared.said:
            warnings.warn(f"'{resolved.name}': {sentence}.", stacklevel=2)
        resolved = prepared.cloud
    return normalize(resolved)
