"""Files to shapes and back.

>>> import tempfile
>>> import torch
>>> from sdf_tools import PointCloud, load, save_points
>>> with tempfile.TemporaryDirectory() as folder:
...     save_points(PointCloud(torch.rand(100, 3)), f"{folder}/scan.ply")
...     cloud = load(f"{folder}/scan.ply")
>>> cloud.points.shape, cloud.normals, cloud.name
(torch.Size([100, 3]), None, 'scan')
"""

from sdf_tools.io.loading import load, validate_for_fitting
from sdf_tools.io.writing import save_mesh, save_points, write_atomically

__all__ = ["load", "save_mesh", "save_points", "validate_for_fitting", "write_atomically"]
