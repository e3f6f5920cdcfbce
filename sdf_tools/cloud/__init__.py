"""Point clouds: noise, strays, normals and their sides, and all of it at once (``prepare_cloud``)."""

from sdf_tools.cloud.normals import estimate_normals, orient_normals, with_normals
from sdf_tools.cloud.outliers import drop_outliers, find_outliers
from sdf_tools.cloud.preparation import PreparedCloud, prepare_cloud
from sdf_tools.cloud.quality import CloudQuality, estimate_noise

__all__ = [
    "CloudQuality",
    "PreparedCloud",
    "drop_outliers",
    "estimate_noise",
    "estimate_normals",
    "find_outliers",
    "orient_normals",
    "prepare_cloud",
    "with_normals",
]
