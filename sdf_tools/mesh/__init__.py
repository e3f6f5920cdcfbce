"""Mesh hygiene: a summary, cleaning, the inside that a person sees, repair."""

from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.prepare import prepare_mesh
from sdf_tools.mesh.repair import fill_boundary_loops, repair, watertight_remesh
from sdf_tools.mesh.summary import Summary, summarize

__all__ = ["Summary", "clean", "fill_boundary_loops", "prepare_mesh", "repair", "summarize", "watertight_remesh"]
