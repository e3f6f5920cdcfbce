"""Sparse marching cubes: a mesh from any field, evaluating it only where the surface is."""

from sdf_tools.extraction._extract import extract_mesh, extract_meshes
from sdf_tools.extraction._fields import Field, SampledField
from sdf_tools.extraction._postprocess import (
    drop_small_components,
    drop_specks,
    fill_holes,
    largest_component,
    leaves_box,
    simplify,
)

__all__ = [
    "Field",
    "SampledField",
    "drop_small_components",
    "drop_specks",
    "extract_mesh",
    "extract_meshes",
    "fill_holes",
    "largest_component",
    "leaves_box",
    "simplify",
]
