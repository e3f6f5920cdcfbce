"""Mesh hygiene: a summary, cleaning, repair."""

from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.repair import fill_boundary_loops, repair, watertight_remesh
from sdf_tools.mesh.summary import Summary, summarize

__all__ = ["Summary", "clean", "fill_boundary_loops", "repair", "summarize", "watertight_remesh"]
