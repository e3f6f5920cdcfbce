"""Libraries that searches need, or the sentence that says how to get them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sdf_tools.errors import MissingLibraryError


def import_igl() -> Any:
    """libigl, or the sentence that says how to get it."""
    try:
        import igl
    except ImportError:
        raise MissingLibraryError("Signed distances need libigl, which is not installed: pip install libigl") from None
    return igl


def import_kernels() -> ModuleType:
    """The compiled loops, or the sentence that says how to get numba."""
    try:
        from sdf_tools.spatial import _triangle_kernels as triangle_kernels
    except ImportError:
        raise MissingLibraryError("Signed distances need numba, which is not installed: pip install numba") from None
    return triangle_kernels
