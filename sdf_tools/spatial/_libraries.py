"""Libraries that searches need, or the sentence that says how to get them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sdf_tools.errors import needs


def import_igl() -> Any:
    """libigl, or the sentence that says how to get it."""
    with needs("libigl", "Signed distance"):
        import igl
    return igl


def import_kernels() -> ModuleType:
    """The compiled loops, or the sentence that says how to get numba."""
    with needs("numba", "Signed distance"):
        from sdf_tools.spatial import _triangle_kernels as triangle_kernels
    return triangle_kernels
