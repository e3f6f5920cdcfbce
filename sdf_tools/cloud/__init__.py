"""Point clouds: noise, normals, their sides, and points that belong to no surface."""

from sdf_tools.cloud.normals import estimate_normals, orient_normals, with_normals
from sdf_tools.cloud.outliers import drop_outliers
from sdf_tools.cloud.quality import CloudQuality, estimate_noise

__all__ = ["CloudQuality", "drop_outliers", "estimate_noise", "estimate_normals", "orient_normals", "with_normals"]
