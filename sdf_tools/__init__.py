"""Signed distance toolkit: shapes in, samples, distances, meshes and honest numbers out.

Everything here is importable as ``sdf_tools.NAME`` and loaded at first use, so ``import sdf_tools`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

# A name that is also a submodule's (clean, repair) cannot stand here: the submodule would replace it once imported.
_WHERE = {
    "clean": ["Summary", "summarize"],
    "distance": ["ClosestPoints", "SignedDistance"],
    "errors": ["MissingLibraryError", "ShapeError"],
    "extraction": [
        "drop_small_components",
        "extract_mesh",
        "extract_meshes",
        "fill_holes",
        "largest_component",
        "simplify",
    ],
    "field_files": ["load_field"],
    "io": ["load", "validate_for_fitting"],
    "metrics": ["Evaluation", "chamfer", "evaluate", "iou", "vertex_error"],
    "normals": ["estimate_normals", "orient_normals", "with_normals"],
    "outliers": ["drop_outliers"],
    "plots": ["add_color_bar", "slice_plot"],
    "pools": ["SDFBatch", "SDFPool", "build_sdf_pool"],
    "render": ["Camera", "error_colors", "error_range", "render_mesh", "save_picture", "turntable"],
    "sampling": ["sample_near_surface", "sample_poisson_disk", "sample_surface", "sample_volume"],
    "shapes": ["Mesh", "NormalizedShape", "PointCloud", "Shape", "normalize"],
    "writing": ["save_mesh", "save_points"],
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sdf_tools' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sdf_tools.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
