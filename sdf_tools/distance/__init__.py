"""Signed distance to meshes (exact) and to point clouds (estimated)."""

from sdf_tools.distance.cloud_distance import CloudDistance
from sdf_tools.distance.signed_distance import ClosestPoints, SignedDistance

__all__ = ["ClosestPoints", "CloudDistance", "SignedDistance"]
