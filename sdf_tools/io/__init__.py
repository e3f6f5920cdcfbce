"""Files to shapes and back."""

from sdf_tools.io.loading import load, validate_for_fitting
from sdf_tools.io.writing import save_mesh, save_points, write_atomically

__all__ = ["load", "save_mesh", "save_points", "validate_for_fitting", "write_atomically"]
