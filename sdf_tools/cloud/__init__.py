"""Point clouds: normals, their sides, and points that belong to no surface."""

from sdf_tools.cloud.normals import estimate_normals, orient_normals, with_normals
from sdf_tools.cloud.outliers import drop_outliers

__all__ = ["drop_outliers", "estimate_normals", "orient_normals", "with_normals"]
