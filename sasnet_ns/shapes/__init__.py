"""Shapes by name or from files, made ready for training; no nerfstudio here."""

from sasnet_ns.shapes.named import canonical_name, resolve_mesh, resolve_shape, shape_names
from sasnet_ns.shapes.prepare import prepare_shape

__all__ = ["canonical_name", "prepare_shape", "resolve_mesh", "resolve_shape", "shape_names"]
