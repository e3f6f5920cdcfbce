"""Mesh hygiene: a summary, cleaning, the inside that a person sees, repair.

>>> from dataclasses import replace
>>> from sdf_tools import extract_mesh, repair, summarize
>>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=32)
>>> torn = replace(ball, faces=ball.faces[1:].flip(1), name="torn")
>>> summary = summarize(torn)
>>> summary.watertight, summary.holes, summary.volume < 0
(False, 1, True)
>>> mended, changes = repair(torn)
>>> len(changes)  # sentences: what was turned, what was filled
2
>>> summarize(mended).watertight
True
"""

from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.prepare import prepare_mesh
from sdf_tools.mesh.repair import fill_boundary_loops, repair, watertight_remesh
from sdf_tools.mesh.summary import Summary, summarize

__all__ = ["Summary", "clean", "fill_boundary_loops", "prepare_mesh", "repair", "summarize", "watertight_remesh"]
