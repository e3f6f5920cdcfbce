"""Signed distance fields: Table 3 and Figure 9."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from reproduction.compare import Results, each_item, run_rows, table_rows
from reproduction.context import Context
from reproduction.rows import Row, load_row, merge
from reproduction.runs import Job
from reproduction.tables import SHAPE_DETAILS, SHAPE_METRICS, write_table
from sasnet_ns.fitting import pictures

ROWS = ("pemlp", "gauss", "siren", "wire", "finer", "sasnet")
ON_REQUEST = ("sasnet_falling_rate",)
"""No row of the paper's; for ``--rows``."""
SHAPES = ("armadillo", "dragon", "lucy", "thai_statue")


def shape_results(context: Context, shapes: tuple[str, ...], fields: bool = False) -> tuple[list[Row], Results]:
    """All rows on these shapes; with ``fields`` the networks too."""
    names = [name for name in context.pick(ROWS + ON_REQUEST) if name not in ON_REQUEST or context.rows]
    rows = [load_row("shapes", name) for name in names]
    return rows, run_rows(context, rows, lambda row, seed: [shape_job(context, row, s, seed) for s in shapes], fields)


def shape_job(context: Context, row: Row, shape: str, seed: int) -> Job:
    """One method on one shape at the context's size."""
    fit = merge(row.fit(shape, *context.variants), {"seed": seed})
    small: dict[str, Any] = {"resolution": 128, "samples": 50_000} if context.quick else {}
    return Job("shape", context.shape(shape), fit, f"{row.label} on {shape}", **small)


def shape_table(context: Context) -> None:
    """Table 3: one table a shape, and their averages."""
    shapes = context.choose(SHAPES[:1], SHAPES[:3], SHAPES)[: context.limit]
    rows, results = shape_results(context, shapes)
    notes = [
        "Chamfer and IoU are the paper's (sum of two mean squared distances; 128^3 points in [-1, 1]^3), in box units; "
        "the other columns are exact and not saturated.",
        "Distances for training come from the mesh; the paper estimates them from oriented points.",
    ]
    files = {shape: Path(context.shape(shape)).name for shape in shapes}
    notes += [f"{shape}: the file {name} of the data folder." for shape, name in files.items() if name != shape]
    for k, shape in enumerate(shapes):
        part = {name: [[group[k]] for group in groups] for name, groups in results.items()}
        table = table_rows(rows, part, SHAPE_METRICS + SHAPE_DETAILS, f"table3_{shape}")
        item = "table3" if len(shapes) == 1 else f"table3_{shape}"
        floors = [
            group[0]["chamfer_floor"] for groups in part.values() for group in groups if "chamfer_floor" in group[0]
        ]
        floor = [f"The Chamfer distance of two samplings of the shape itself is {f:.2e}." for f in floors[:1]]
        print(write_table(context, item, f"Table 3: {shape}", SHAPE_METRICS, table, [*notes, *floor], SHAPE_DETAILS))
    if len(shapes) > 1:
        for row in rows:
            row.paper["table3_these"] = _published_mean(row, shapes)
        table = table_rows(rows, results, SHAPE_METRICS, "table3_these")
        distance = next(metric for metric in SHAPE_METRICS if metric.key == "point_to_surface_mean")
        print(write_table(context, "table3", "Table 3: average", SHAPE_METRICS, table, notes))
        print(each_item(context, "table3", rows, results, list(shapes), distance))
    _meshes(context, rows, results, shapes)


def _published_mean(row: Row, shapes: tuple[str, ...]) -> dict[str, float]:
    """Of the paper's numbers for these shapes: its own average has four."""
    published = [row.paper.get(f"table3_{shape}") for shape in shapes]
    known = [numbers for numbers in published if numbers]
    return {key: fmean(n[key] for n in known) for key in known[0]} if len(known) == len(shapes) else {}


def _meshes(context: Context, rows: list[Row], results: Results, shapes: tuple[str, ...]) -> None:
    """Figure 9: the meshes, coloured by their distance from the shape."""
    shape = "dragon" if "dragon" in shapes else shapes[0]
    index = shapes.index(shape)
    largest = 1e-2 if context.quick else 2e-3
    shown = []
    for row in rows:
        path = results[row.name][0][index].get("folder", Path()) / "mesh.ply"
        if path.is_file():
            shown.append((row.label, error_picture(path, context.shape(shape), largest)[0]))
    if shown:
        context.save("fig9.png", pictures.panels(shown, 3))


def error_picture(path: Path, shape: str, largest: float) -> tuple[Tensor, Tensor]:
    """A picture of a fitted mesh coloured by its vertices' distance from the shape, and these distances, box units."""
    from sasnet_ns.shapes.named import resolve_mesh
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.geometry import Mesh, normalize
    from sdf_tools.io.loading import load
    from sdf_tools.pictures.render import Camera, error_colors, render_mesh

    reference = resolve_mesh(shape)
    box = normalize(reference)
    mesh = load(path)
    assert isinstance(mesh, Mesh)
    error = SignedDistance(box.shape, sign="unsigned")(box.to_box(mesh.vertices)).abs()
    mesh = dataclasses.replace(mesh, vertex_colors=error_colors(error, largest=largest))
    camera = Camera(azimuth=200.0 if Path(shape).stem == "armadillo" else 20.0)  # their faces
    return render_mesh(mesh, camera, (300, 300), occlusion_rays=4, frame=reference.vertices), error
