"""From a field to meshes: search, follow the surface, place the vertices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from sdf_tools.errors import ShapeError, needs
from sdf_tools.extraction._fields import Field, Grid, SampledField
from sdf_tools.extraction._search import (
    CoarseLattice,
    Segments,
    bisect,
    classify,
    crossing_segments,
    estimate_lipschitz,
    hunt,
    isolated_cells,
    no_segments,
    probe,
    refine,
    sample_coarse,
)
from sdf_tools.geometry import Mesh
from sdf_tools.vectors import unit_vectors

if TYPE_CHECKING:
    from sdf_tools.extraction._sparse import CrossingEdges, SparseLattice

Bounds = Sequence[Sequence[float]]
UNIT_BOX: Bounds = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))

# Vertices keep this share of a cell's edge between themselves and the lattice nodes: a value that equals the level
# at a node would otherwise put several vertices on one point and leave triangles without area.
_CLEARANCE = 1e-3

# Cells halved at once in the search for pieces that the coarse lattice does not show.
_MOST_HUNTED = 20_000

# More suspects than this share of all coarse cells: the values are no distances, a Lipschitz bound says nothing.
_SUSPECT_SHARE = 0.25


def extract_mesh(
    field: Field,
    resolution: int = 512,
    bounds: Bounds = UNIT_BOX,
    level: float = 0.0,
    *,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    inside: Literal["below", "above"] = "below",
    search: Literal["auto", "lipschitz", "growth"] = "auto",
    lipschitz: float | None = None,
    coarse_resolution: int = 64,
    probes: int = 16_384,
    refine_steps: int = 0,
    normals: bool = False,
    cap: bool = False,
    device: torch.device | str | None = None,
    chunk: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
    name: str = "extracted mesh",
) -> Mesh:
    """The surface ``field == level`` as one mesh; see :func:`extract_meshes` for every option.

    >>> from sdf_tools import extract_mesh
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.3, resolution=32)
    >>> round(float(ball.vertices.norm(dim=1).mean()), 3)
    0.3
    """
    return extract_meshes(
        field, [level], resolution, bounds, method=method, inside=inside, search=search, lipschitz=lipschitz,
        coarse_resolution=coarse_resolution, probes=probes, refine_steps=refine_steps, normals=normals, cap=cap,
        device=device, chunk=chunk, seed=seed, progress=progress, name=name,
    )[0]  # fmt: skip


def extract_meshes(
    field: Field,
    levels: Sequence[float],
    resolution: int = 512,
    bounds: Bounds = UNIT_BOX,
    *,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    inside: Literal["below", "above"] = "below",
    search: Literal["auto", "lipschitz", "growth"] = "auto",
    lipschitz: float | None = None,
    coarse_resolution: int = 64,
    probes: int = 16_384,
    refine_steps: int = 0,
    normals: bool = False,
    cap: bool = False,
    device: torch.device | str | None = None,
    chunk: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
    name: str = "extracted mesh",
) -> list[Mesh]:
    """Extract level sets by marching cubes, evaluating the field only at corners of cells that the surface crosses.

    1. A coarse lattice of about ``coarse_resolution`` cells is evaluated, and refined twice where it crosses the level
       or where, by a Lipschitz bound, a crossing could hide.
    2. Every crossed coarse edge is halved down to one edge of the full lattice: seeds that lie on the surface.
    3. From the seeds the surface is followed through every crossed cell face until it closes (Wyvill et al. 1986,
       "Data structure for soft objects"), so whatever is connected to a seed is found whole, however thin.
    4. Random probes test the cells that seem empty; what they hit becomes a seed as well.

    The result equals marching cubes (Lorensen and Cline 1987, with one consistent rule on ambiguous faces) on the full
    lattice, except for closed pieces smaller than a coarse cell that both the bound and the probes miss. Neighbouring
    cells share lattice values and vertices, so there are no seams: the mesh is watertight unless the surface leaves
    the box.

    Memory grows with the surface, not with the volume: about 4 KB per touched brick of 8^3 nodes, besides the mesh.

    Args:
        field: callable (N, 3) -> (N,) or (N, 1), torch or numpy; called without gradient.
        levels: values of the surfaces, a mesh each; evaluations are shared.
        resolution: cells along the longest side of the box, any number; cells are as near to cubes as whole numbers
            allow.
        bounds: ((x, y, z), (x, y, z)) lowest and highest corner of the box, in the field's coordinates.
        method: "marching_cubes", or "dual_contouring" for fields with sharp edges and corners, which it puts vertices
            on (see ``_dual.dual_contour``); costs a gradient at every crossed edge and three more evaluations. Where
            the surface leaves the box, its meshes end up to a cell before it.
        inside: "below" the level for signed distances, "above" for densities and occupancies.
        search: "lipschitz" for fields that are roughly distances near the level, "growth" (step 1 by sign changes
            alone) for others; "auto" tries the bound and drops it when it excludes next to nothing.
        lipschitz: the bound on the slope; None estimates it from the coarse lattice.
        coarse_resolution: cells of the coarse lattice along the longest side. Raise it for fields that are not
            distances and have small separate pieces.
        probes: random evaluations in step 4.
        refine_steps: regula falsi steps that move each vertex along its edge onto the level set; one evaluation per
            vertex and step.
        normals: whether to add vertex normals from the field's gradient (automatic differentiation where possible,
            else central differences).
        cap: whether to close the surface one cell inside the faces of the box.
        device: where a torch field lives; default where its parameters are, else the CPU.
        chunk: points per call of the field; default 8,192 on the CPU and 262,144 elsewhere.
        seed: of the probes.
        progress: called as ``progress(stage, evaluations)`` while running.
        name: of the meshes.

    Returns:
        A mesh per level, float64 vertices in the field's coordinates, faces counter-clockwise seen from outside.

    Raises:
        ShapeError: a level has no surface in the box, or the field is NaN somewhere.
        ValueError: bad arguments.
    """
    with needs("numba", "Extraction"):
        from sdf_tools.extraction._sparse import SparseLattice

    grid = make_grid(resolution, bounds)
    limit = float(np.finfo(np.float32).max)
    border = (limit if inside == "below" else -limit) if cap else None
    if not len(levels) or not np.isfinite(levels).all():
        raise ValueError(f"Levels must be one or more finite numbers; got {list(levels)}.")
    if method not in ("marching_cubes", "dual_contouring"):
        raise ValueError(f"method must be 'marching_cubes' or 'dual_contouring'; got '{method}'.")
    if coarse_resolution < 2:
        raise ValueError(f"coarse_resolution must be at least 2; got {coarse_resolution}.")
    sampled = SampledField(field, device, chunk, progress, border)
    rng = np.random.default_rng(seed)
    coarse = sample_coarse(sampled, grid, coarse_resolution)
    meshes = []
    lattice: SparseLattice | None = None
    for value in levels:
        level = float(np.float32(value))  # numpy and the kernels compare in different precision otherwise
        sampled.stage = "search"
        finest, hidden = _search(sampled, coarse, level, search, lipschitz)
        if lattice is None:
            lattice = SparseLattice(sampled, grid, finest)
        else:
            lattice.coarse = finest
            lattice.reset()
        probed = probe(sampled, coarse, level, probes, rng)
        for found in (crossing_segments(finest, level), hidden, probed):
            sampled.stage = "search"
            start, nodes, values = bisect(sampled, grid, found, level)
            sampled.stage = "surface"
            fresh = lattice.around(grid.keys(start), found.axis)
            lattice.store(nodes, values)
            lattice.grow(fresh, level)
        edges = lattice.edges(level)
        if len(edges.keys) == 0:
            raise ShapeError(
                f"The field has no surface at level {value:g} in the box {_box(bounds)}: its values there run from "
                f"{sampled.lowest:.4g} to {sampled.highest:.4g}; check the level and the bounds."
            )
        if method == "dual_contouring":
            sampled.stage = "vertices"
            vertices, faces = _dual_contour(sampled, lattice, edges, level, refine_steps)
        else:
            faces = lattice.triangles(edges, level)
            sampled.stage = "vertices"
            index, axes, ends = grid.split(edges.keys), edges.axes, edges.ends
            del edges
            vertices = _place_vertices(sampled, grid, index, axes, ends, level, refine_steps)
            del index, axes, ends
        vertex_normals = None
        if normals:
            sampled.stage = "normals"
            gradient = unit_vectors(sampled.gradient(vertices, grid.spacing * 1e-2))
            vertex_normals = torch.from_numpy(gradient if inside == "below" else -gradient)
        if inside == "above":
            faces = np.ascontiguousarray(faces[:, ::-1])
        meshes.append(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), vertex_normals, name=name))
    return meshes


def make_grid(resolution: int, bounds: Bounds) -> Grid:
    """The lattice with ``resolution`` cells along the longest side of ``bounds``.

    Raises:
        ValueError: a resolution below 1 or above 8,192, or a box without extent.
    """
    low, high = (np.asarray(corner, dtype=np.float64) for corner in bounds)
    if low.shape != (3,) or high.shape != (3,) or not np.isfinite(low).all() or not np.isfinite(high).all():
        raise ValueError(f"Bounds must be two corners of three finite numbers; got {bounds}.")
    if (high <= low).any():
        raise ValueError(
            f"The box {_box(bounds)} is empty: its highest corner must exceed its lowest along every axis."
        )
    if not 1 <= resolution <= 8192:
        raise ValueError(f"The resolution must lie between 1 and 8192 cells; got {resolution}.")
    side = high - low
    cells = np.maximum(1, np.round(side / side.max() * resolution)).astype(np.int64)
    return Grid(low, side / cells, cells)


def _box(bounds: Bounds) -> str:
    return " to ".join("(" + ", ".join(f"{float(x):g}" for x in corner) + ")" for corner in bounds)


def _search(
    field: SampledField, coarse: CoarseLattice, level: float, search: str, lipschitz: float | None
) -> tuple[CoarseLattice, Segments]:
    """Refine the coarse lattice, at most twice, where the surface is or may be; below that, only where it may hide."""
    if search not in ("auto", "lipschitz", "growth"):
        raise ValueError(f"search must be 'auto', 'lipschitz' or 'growth'; got '{search}'.")
    bound = 0.0 if search == "growth" else (lipschitz or estimate_lipschitz(coarse, level))
    lattice = coarse
    for _ in range(2):
        if lattice.step == 1:
            break
        crossing, suspects = classify(lattice, level, bound)
        if search == "auto" and lattice is coarse and suspects.mean() > _SUSPECT_SHARE:
            bound = 0.0
        cells = crossing | suspects if bound > 0 else crossing
        if not cells.any():
            break
        lattice = refine(field, lattice, cells)
    if bound == 0 or lattice.step == 1:
        return lattice, no_segments()
    hidden = hunt(field, lattice, isolated_cells(lattice, level, bound), level, bound, _MOST_HUNTED)
    return lattice, hidden


def _dual_contour(
    field: SampledField, lattice: SparseLattice, edges: CrossingEdges, level: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    from sdf_tools.extraction._dual import dual_contour

    index = lattice.grid.split(edges.keys)
    # Tangent planes are only worth something where the surface is: two steps at least.
    crossings = _place_vertices(field, lattice.grid, index, edges.axes, edges.ends, level, max(2, steps))
    return dual_contour(field, lattice, edges, crossings, level)


def _place_vertices(
    field: SampledField, grid: Grid, index: np.ndarray, axes: np.ndarray, ends: np.ndarray, level: float, steps: int
) -> np.ndarray:
    """(V, 3) float64 positions on the crossed edges: linear interpolation, then regula falsi inside the bracket."""
    vertices = np.empty((len(axes), 3))
    for start in range(0, len(axes), 1 << 20):
        part = slice(start, start + (1 << 20))
        rows, axis = np.arange(len(axes[part])), axes[part]
        below, above = np.zeros(len(rows)), np.ones(len(rows))
        value_below, value_above = (ends[part].astype(np.float64) - level).T
        t = np.clip(value_below / (value_below - value_above), _CLEARANCE, 1 - _CLEARANCE)
        position = index[part].astype(np.float64)
        for step in range(steps + 1):
            position[rows, axis] = index[part][rows, axis] + t
            if step == steps:
                break
            value = field(grid.positions(position)).astype(np.float64) - level
            left = (value < 0) == (value_below < 0)
            below, value_below = np.where(left, t, below), np.where(left, value, value_below)
            above, value_above = np.where(left, above, t), np.where(left, value_above, value)
            share = value_below / np.where(value_below == value_above, 1.0, value_below - value_above)
            t = np.clip(below + (above - below) * share, _CLEARANCE, 1 - _CLEARANCE)
        vertices[part] = grid.positions(position)
    return vertices
