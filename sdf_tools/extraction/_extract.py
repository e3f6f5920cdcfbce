"""From a field to meshes: search, follow the surface, place the vertices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from sdf_tools.errors import ShapeError, needs
from sdf_tools.extraction._fields import STAND_IN, Field, Grid, SampledField, lost_in_float32
from sdf_tools.extraction._vertices import leaps_everywhere, outward_normals, place_vertices
from sdf_tools.geometry import Mesh
from sdf_tools.vectors import unit_vectors

if TYPE_CHECKING:
    from sdf_tools.extraction._lattice import CoarseLattice
    from sdf_tools.extraction._search import Search
    from sdf_tools.extraction._sparse import SparseLattice

Bounds = Sequence[Sequence[float]]
UNIT_BOX: Bounds = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))

_LARGEST_LEVEL = 1e38


def extract_mesh(
    field: Field,
    resolution: int = 512,
    bounds: Bounds = UNIT_BOX,
    level: float = 0.0,
    *,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    inside: Literal["below", "above"] = "below",
    search: Literal["auto", "growth"] = "auto",
    lipschitz: float | None = None,
    coarse_resolution: int = 64,
    thorough: bool = False,
    probes: int = 16_384,
    seeds: np.ndarray | torch.Tensor | None = None,
    refine_steps: int = 0,
    normals: bool = False,
    cap: bool = False,
    device: torch.device | str | None = None,
    chunk: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
    name: str = "extracted mesh",
) -> Mesh:
    """The surface ``field == level`` as one mesh; every option is described at :func:`extract_meshes`.

    >>> from sdf_tools import extract_mesh
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.3, resolution=32)
    >>> round(float(ball.vertices.norm(dim=1).mean()), 3)
    0.3
    """
    (mesh,) = _extract(
        field,
        [level],
        resolution,
        bounds,
        method=method,
        inside=inside,
        search=search,
        lipschitz=lipschitz,
        coarse_resolution=coarse_resolution,
        thorough=thorough,
        probes=probes,
        seeds=seeds,
        refine_steps=refine_steps,
        normals=normals,
        cap=cap,
        device=device,
        chunk=chunk,
        seed=seed,
        progress=progress,
        name=name,
    )
    return mesh


def extract_meshes(
    field: Field,
    levels: Sequence[float],
    resolution: int = 512,
    bounds: Bounds = UNIT_BOX,
    *,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    inside: Literal["below", "above"] = "below",
    search: Literal["auto", "growth"] = "auto",
    lipschitz: float | None = None,
    coarse_resolution: int = 64,
    thorough: bool = False,
    probes: int = 16_384,
    seeds: np.ndarray | torch.Tensor | None = None,
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
       or where its values leave room for a surface.
    2. Every crossed coarse edge is halved down to one edge of the full lattice: seeds that lie on the surface.
    3. From the seeds the surface is followed through every crossed cell face until it closes (Wyvill et al. 1986,
       "Data structure for soft objects"), so whatever is connected to a seed is found whole, however thin.
    4. Cells that still may hide a surface are halved down to the full lattice, and random probes test those that seem
       empty; what is met becomes a seed as well.

    What a value leaves room for follows from the slopes: measured across the surface as a function of the value, so
    that densities and truncated distances count as what they say about distance, and raised where the coarse lattice
    shows steeper places. The result equals marching cubes (Lorensen and Cline 1987, with one consistent rule on
    ambiguous faces) on the full lattice if the field is nowhere steeper than that, except for closed pieces within a
    cell of the refined lattice (two of the full one at 512, eight at 2,048) from another surface. Where too many cells
    stay in doubt, as with an occupancy, whose values say nothing about distance, one warning says so.

    Neighbouring cells share lattice values and vertices, so there are no seams: the mesh is watertight unless the
    surface leaves the box.

    Memory grows with the surface, not with the volume: about 4 KB per touched brick of 8^3 nodes, besides the mesh.

    Args:
        field: callable (N, 3) -> (N,) or (N, 1), torch or numpy; called without gradient. Networks get tensors of
            their own type; plain functions on the CPU get float64 where the box is too far from the origin, or the
            level too large, for float32.
        levels: values of the surfaces, a mesh each; evaluations are shared.
        resolution: cells along the longest side of the box, any number; cells are as near to cubes as whole numbers
            allow.
        bounds: ((x, y, z), (x, y, z)) lowest and highest corner of the box, in the field's coordinates.
        method: "marching_cubes", or "dual_contouring" for fields with sharp edges and corners, which it puts vertices
            on (see ``_dual.dual_contour``); costs a gradient at every crossed edge and three more evaluations. A few of
            its faces may pass through each other (tens among 100,000 where several sheets share a cell), which marching
            cubes' never do. Where the surface leaves the box, its meshes end up to a cell before it.
        inside: "below" the level for signed distances, "above" for densities and occupancies.
        search: "auto" as above; "growth" looks only where the coarse lattice shows a crossing and where probes hit.
        lipschitz: a bound on the field's slope that you know (1 for distances, truncated ones too): then everything is
            found that the bound does not rule out, however many evaluations that takes. None measures the slopes.
        coarse_resolution: cells of the coarse lattice along the longest side. Raise it for fields that say nothing
            about distance: pieces larger than its cells are found in every field.
        thorough: leave no cell unsettled, close to a surface neither, whatever it takes, with a wider margin on the
            slopes; for an occupancy that is every node of the full lattice.
        probes: random evaluations in step 4.
        seeds: (N, 3) places near the surface, where they are known (the points of a cloud): it is followed from their
            cells too. With ``search="growth"`` and a small ``coarse_resolution`` little else is evaluated.
        refine_steps: regula falsi steps that move each vertex along its edge onto the level set; one evaluation per
            vertex and step.
        normals: whether to add unit vertex normals from the field's gradient (automatic differentiation where possible,
            else central differences). Caps have the box's, and where the gradient vanishes, as an occupancy's does,
            they are the mesh's own.
        cap: whether to close the surface one cell inside the faces of the box.
        device: where a torch field lives; default where its parameters are, else the CPU.
        chunk: points per call of the field; default its own ``points_at_once`` if it has one, else 8,192 on the CPU and
            262,144 elsewhere.
        seed: of the probes.
        progress: called as ``progress(stage, evaluations)`` while running.
        name: of the meshes.

    Returns:
        A mesh per level, float64 vertices in the field's coordinates, faces counter-clockwise seen from outside.

    Raises:
        ShapeError: a level has no surface in the box, or the field is NaN somewhere.
        ValueError: bad arguments.

    Warns:
        UserWarning: closed pieces smaller than a stated size may be missing; it names the options that help. The box
            is far away and the field takes float32 only.
    """
    return _extract(
        field,
        levels,
        resolution,
        bounds,
        method=method,
        inside=inside,
        search=search,
        lipschitz=lipschitz,
        coarse_resolution=coarse_resolution,
        thorough=thorough,
        probes=probes,
        seeds=seeds,
        refine_steps=refine_steps,
        normals=normals,
        cap=cap,
        device=device,
        chunk=chunk,
        seed=seed,
        progress=progress,
        name=name,
    )


def _extract(
    field: Field,
    levels: Sequence[float],
    resolution: int,
    bounds: Bounds,
    *,
    method: Literal["marching_cubes", "dual_contouring"],
    inside: Literal["below", "above"],
    search: Literal["auto", "growth"],
    lipschitz: float | None,
    coarse_resolution: int,
    thorough: bool,
    probes: int,
    seeds: np.ndarray | torch.Tensor | None,
    refine_steps: int,
    normals: bool,
    cap: bool,
    device: torch.device | str | None,
    chunk: int | None,
    seed: int,
    progress: Callable[[str, int], None] | None,
    name: str,
) -> list[Mesh]:
    with needs("numba", "Extraction"):
        from sdf_tools.extraction._lattice import bisect, crossing_segments, sample_coarse
        from sdf_tools.extraction._search import probe, search_surface
        from sdf_tools.extraction._sparse import SparseLattice

    grid = make_grid(resolution, bounds)
    limit = float(np.finfo(np.float32).max)
    border = (limit if inside == "below" else -limit) if cap else None
    levels = [float(value) for value in levels]
    if not levels or not np.isfinite(levels).all():
        raise ValueError(f"Levels must be one or more finite numbers; got {levels}.")
    if max(map(abs, levels)) > _LARGEST_LEVEL:
        raise ValueError(
            f"Levels must lie between -{_LARGEST_LEVEL:g} and {_LARGEST_LEVEL:g}, in float32's range; got {levels}; "
            "divide the field and its level by a constant."
        )
    if method not in ("marching_cubes", "dual_contouring"):
        raise ValueError(f"method must be 'marching_cubes' or 'dual_contouring'; got '{method}'.")
    if search not in ("auto", "growth"):
        raise ValueError(f"search must be 'auto' or 'growth'; got '{search}'.")
    if lipschitz is not None and not 0 < lipschitz < np.inf:
        raise ValueError(f"lipschitz must be a positive number; got {lipschitz}.")
    if coarse_resolution < 2:
        raise ValueError(f"coarse_resolution must be at least 2; got {coarse_resolution}.")
    sampled = SampledField(field, device, chunk, progress, border, grid.lost_in_float32)
    rng = np.random.default_rng(seed)
    coarse = sample_coarse(sampled, grid, coarse_resolution)
    if grid.lost_in_float32 and sampled.takes_float32_only:
        _warn_of_rounding(bounds)
    meshes = []
    lattice: SparseLattice | None = None
    for number, value in enumerate(levels):
        sampled.stage = "search"
        if not isinstance(field, torch.nn.Module) and _lost_in_values(value - sampled.offset, coarse):
            sampled.subtract(value)
            coarse, lattice = sample_coarse(sampled, grid, coarse_resolution), None
        # numpy and the kernels compare in different precision otherwise
        level = float(np.float32(value - sampled.offset))
        found = search_surface(
            sampled, coarse, level, rng, bounded=search != "growth", lipschitz=lipschitz, thorough=thorough
        )
        if found.unsettled:
            _warn_of_losses(found, grid, value)
        if lattice is None:
            lattice = SparseLattice(sampled, grid, found.finest)
        else:
            lattice.reset(found.finest)
        probed = probe(sampled, coarse, level, probes, rng)
        for segments in (crossing_segments(found.finest, level), found.hidden, probed):
            sampled.stage = "search"
            start, nodes, values = bisect(sampled, grid, segments, level)
            sampled.stage = "surface"
            lattice.know(start, nodes, values)
            lattice.seed(start, segments.axis, level)
        del found, probed, segments, start, nodes, values  # large ones, and the mesh needs room
        if seeds is not None:
            sampled.stage = "surface"
            lattice.seed(*_edges_near(grid, seeds), level)
        count = lattice.close(level)
        if count == 0 and cap and (grid.cells < 3).any():
            raise ShapeError(
                f"The lattice has {' x '.join(map(str, grid.cells.tolist()))} cells, and --cap (cap=True) closes the "
                "surface one cell inside the box: take a higher resolution or a thicker box."
            )
        if count == 0:
            raise ShapeError(
                f"The field has no surface at level {value:g} in the box {_box(bounds)}: its values there run from "
                f"{sampled.lowest:.4g} to {sampled.highest:.4g}; check the level and the bounds."
            )
        sampled.stage = "vertices"
        leaps = normals and leaps_everywhere(lattice)
        if method == "dual_contouring":
            vertices, faces = _dual_contour(sampled, lattice, level, refine_steps)
            if len(faces) == 0:
                raise ShapeError(
                    "Dual contouring has no face here, as each needs four cells around it; take a higher resolution."
                )
        else:
            vertices, done = np.empty((count, 3)), 0
            for edges in lattice.edge_parts():
                part = slice(done, done := done + len(edges.axes))
                vertices[part] = place_vertices(sampled, grid, edges, level, refine_steps)
            del edges
            if number == len(levels) - 1:
                lattice.forget_values()
            faces = lattice.triangles()
        if inside == "above":
            faces = np.ascontiguousarray(faces[:, ::-1])
        outwards = None
        if normals:
            sampled.stage = "normals"
            # Where a difference meets a leap, it points along an axis.
            gradient = (
                np.zeros_like(vertices) if leaps else unit_vectors(sampled.gradient(vertices, grid.spacing * 1e-2))
            )
            gradient = gradient if inside == "below" else -gradient
            outwards = torch.from_numpy(outward_normals(gradient, vertices, faces, grid if cap else None, method))
        meshes.append(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), outwards, name=name))
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


def _edges_near(grid: Grid, places: np.ndarray | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The lattice edge along x nearest to each of (N, 3) places: lower nodes and axes, each once."""
    at = (np.asarray(places, np.float64).reshape(-1, 3) - grid.low) / grid.spacing
    at = at[((at >= 0) & (at <= grid.cells)).all(1)]
    index = np.round(at).astype(np.int64)
    index[:, 0] = np.minimum(at[:, 0].astype(np.int64), grid.cells[0] - 1)
    keys = np.unique(grid.keys(index))
    return np.ascontiguousarray(grid.split(keys)), np.zeros(len(keys), np.int64)


def _box(bounds: Bounds) -> str:
    return " to ".join("(" + ", ".join(f"{float(x):.8g}" for x in corner) + ")" for corner in bounds)


def _warn_of_losses(search: Search, grid: Grid, level: float) -> None:
    """One sentence where the search had to leave places in which closed pieces may hide."""
    share = search.unsettled / np.prod(-(-grid.cells / search.blind))
    warnings.warn(
        f"Separate pieces smaller than {search.blind * float(grid.spacing.max()):.2g} may be missing from the surface "
        f"at level {level:g}: the field's values do not rule them out in {search.unsettled:,} cells of the search "
        f"({100 * share:.3g} %); raise coarse_resolution, give lipschitz if you know the field's largest slope, or set "
        "thorough=True to look everywhere.",
        stacklevel=4,
    )


def _warn_of_rounding(bounds: Bounds) -> None:
    warnings.warn(
        f"The field takes float32 points, which are too coarse for cells of the box {_box(bounds)}: the surface may be "
        "distorted; let the field take float64, or shift its coordinates to the origin.",
        stacklevel=4,
    )


def _lost_in_values(level: float, coarse: CoarseLattice) -> bool:
    """Whether float32 is too coarse for values near ``level``, judged by how they change over a cell."""
    if level == 0:
        return False
    known = np.abs(coarse.values) < STAND_IN
    low = float(coarse.values.min(where=known, initial=level))  # of a field that leaps, the leap counts
    high = float(coarse.values.max(where=known, initial=level))
    return lost_in_float32(abs(level), (high - low) / int(coarse.grid.cells.max()))


def _dual_contour(
    field: SampledField, lattice: SparseLattice, level: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    from sdf_tools.extraction._dual import dual_contour

    edges = lattice.edges()
    # Tangent planes are only worth something where the surface is: two steps at least.
    crossings = place_vertices(field, lattice.grid, edges, level, max(2, steps))
    return dual_contour(field, lattice, edges, crossings, level)
