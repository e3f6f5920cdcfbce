"""Signed distance toolkit: shapes in, samples, distances, meshes and honest numbers out.

Everything here is importable as ``sdf_tools.NAME`` and loaded at first use, so ``import sdf_tools`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "clean": ["clean", "summarize", "Summary"],
    "distance": ["SignedDistance", "ClosestPoints"],
    "errors": ["ShapeError", "MissingLibraryError"],
    "extraction": ["extract_mesh", "extract_meshes"],
    "io": ["load", "validate_for_fitting"],
    "pools": ["SDFBatch", "SDFPool", "build_sdf_pool"],
    "sampling": ["sample_surface"],
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
