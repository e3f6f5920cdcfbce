"""Signed distance fields: Table 3, Figures 8, 9 and 10, and the supplement's figures on shapes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch

from reproduction.compare import Results, run_rows, table_rows
from reproduction.context import Context
from reproduction.rows import Row, load_row, merge
from reproduction.runs import Job
from reproduction.tables import SHAPE_METRICS, write_table
from sasnet_ns.fitting import pictures

ROWS = ("pemlp", "gauss", "siren", "wire", "finer", "sasnet")
SHAPES = ("armadillo", "dragon", "lucy", "thai_statue")
_WINDOW = 35
"""Moving average of Figure 8, in reports of the loss."""


def shape_results(context: Context, shapes: tuple[str, ...]) -> tuple[list[Row], Results]:
    """All rows on these shapes."""
    rows = [load_row("shapes", name) for name in context.pick(ROWS)]

    def jobs(row: Row, seed: int) -> list[Job]:
        made = []
        for shape in shapes:
            fit = merge(row.fit(shape, *context.variants), {"seed": seed})
            small: dict[str, Any] = {"resolution": 128, "samples": 50_000} if context.quick else {}
            made.append(Job("shape", shape, fit, f"{row.label} on {shape}", **small))
        return made

    return rows, run_rows(context, rows, jobs)


def shape_table(context: Context) -> None:
    """Table 3: one table a shape, and their averages."""
    shapes = context.choose(SHAPES[:1], SHAPES[:3], SHAPES)
    rows, results = shape_results(context, shapes)
    notes = [
        "Chamfer and IoU are the paper's (sum of two mean squared distances; 128^3 points in [-1, 1]^3), in box units; "
        "the other two columns are exact and not saturated.",
        "Distances for training come from the mesh; the paper estimates them from oriented points.",
    ]
    floors = [r["chamfer_floor"] for group in results.values() for r in group[0] if "chamfer_floor" in r]
    if floors:
        notes.append(f"The Chamfer distance of two samplings of the same surface is {floors[0]:.2e} ({shapes[0]}).")
    for k, shape in enumerate(shapes):
        part = {name: [[group[k]] for group in groups] for name, groups in results.items()}
        table = table_rows(rows, part, SHAPE_METRICS, f"table3_{shape}")
        item = "table3" if len(shapes) == 1 else f"table3_{shape}"
        print(write_table(context, item, f"Table 3: {shape}", SHAPE_METRICS, table, notes))
    if len(shapes) > 1:
        table = table_rows(rows, results, SHAPE_METRICS, "table3_average")
        print(write_table(context, "table3", "Table 3: average", SHAPE_METRICS, table, notes))
    _meshes(context, rows, results, shapes)


def losses(context: Context) -> None:
    """Figure 8: training loss on the Armadillo, and when SASNet reaches FINER's final loss."""
    rows, results = shape_results(context, ("armadillo",))
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    smooth: dict[str, np.ndarray] = {}
    every = 10
    window = 5 if context.quick else _WINDOW
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            print(f"{row.label}: {result['error']}")
            continue
        loss = np.asarray(json.loads((result["folder"] / "history.json").read_text())["loss"])
        smooth[row.name] = np.convolve(loss, np.ones(window) / window, "valid")
        steps = every * (np.arange(len(smooth[row.name])) + window)
        axis.plot(steps, smooth[row.name], label=row.label, linewidth=2 if row.name == "sasnet" else 1)
    axis.set(xlabel="step", ylabel=f"loss, mean of {window} reports", yscale="log", title="Figure 8: Armadillo")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    lines = [f"### Figure 8: training loss on the Armadillo{context.mark}", "",
             "| method | final loss | step at which SASNet has it |", "| --- | ---: | ---: |"]  # fmt: skip
    own = smooth.get("sasnet")
    for row in rows:
        if row.name in smooth:
            final = smooth[row.name][-1]
            reached = (
                "" if own is None or not (own <= final).any() else str(every * (int((own <= final).argmax()) + window))
            )
            lines.append(f"| {row.label} | {final:.3e} | {reached} |")
    if own is not None and len(smooth) > 1:
        first = min(smooth, key=lambda name: smooth[name][-1])
        label = next(row.label for row in rows if row.name == first)
        lines += [
            "",
            f"- Lowest final loss: {label}; in the paper SASNet, which has FINER's after 35,000 of 200,000 steps.",
        ]
    lines.append(f"- {context.hardware()}; seed {context.seeds[0]}.")
    context.save("fig8.png", pictures.figure_png(figure))
    context.save("fig8.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def mask_slices(context: Context) -> None:
    """Figure 10 and Supp. Fig. 5: the highest band's mask of SASNet in slices, with the surface's outline."""
    from sasnet_ns.networks import SASNet, SignedDistanceField
    from sdf_tools.pictures.plots import sample_slice

    shape = "armadillo" if context.quick else "dragon"
    context.rows = ("sasnet",)
    rows, results = shape_results(context, (shape,))
    result = results[rows[0].name][0][0]
    if "error" in result:
        raise ValueError(result["error"])
    field = SignedDistanceField.load(result["folder"] / "field.pt")
    network = field.network
    assert isinstance(network, SASNet)

    def band(points: torch.Tensor) -> torch.Tensor:
        values = network.masks(2 * points)[0]
        assert values is not None
        return values[..., -1]

    figure, axes = pictures.new_figure(2, 3, (3.0, 3.0))
    for k, (axis, place) in enumerate(zip(axes, ("x", "y", "z", "x", "y", "z"), strict=True)):
        offset = 0.0 if k < 3 else 0.15
        mask, extent = sample_slice(band, place, offset, 160)  # type: ignore[arg-type]
        distance, _ = sample_slice(field, place, offset, 160)  # type: ignore[arg-type]
        shown = axis.imshow(mask, origin="lower", extent=extent, cmap="coolwarm", vmin=0, vmax=1)
        axis.contour(distance, levels=[0.0], colors="black", linewidths=0.8, extent=extent, origin="lower")
        axis.set_title(f"{place} = {offset:g}", fontsize=8)
        axis.set_axis_off()
    figure.colorbar(shown, ax=axes, label="mask of the highest band", shrink=0.8)
    context.save("fig10.png", pictures.figure_png(figure))
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50_000, 3, generator=generator) - 0.5
    with torch.no_grad():
        near = field(points).abs() < 0.02
        values = band(points)
    print(f"mean of the highest band's mask: {values[near].mean():.3f} within 0.02 of the surface, "
          f"{values[~near].mean():.3f} elsewhere")  # fmt: skip


def _meshes(context: Context, rows: list[Row], results: Results, shapes: tuple[str, ...]) -> None:
    """Figure 9: the meshes, coloured by their distance from the shape (as Supp. Fig. 4)."""
    from sasnet_ns.shapes.named import resolve_shape
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.geometry import Mesh, normalize
    from sdf_tools.io.loading import load
    from sdf_tools.pictures.render import Camera, error_colors, render_mesh

    shape = "dragon" if "dragon" in shapes else shapes[0]
    index = shapes.index(shape)
    box = normalize(resolve_shape(shape))
    distance = SignedDistance(box.shape, sign="unsigned")
    camera = Camera(azimuth=200.0 if shape == "armadillo" else 20.0)  # their faces
    shown: list[tuple[str, Any]] = []
    for row in rows:
        result = results[row.name][0][index]
        if "folder" not in result or not (result["folder"] / "mesh.ply").is_file():
            continue
        mesh = load(result["folder"] / "mesh.ply")
        assert isinstance(mesh, Mesh)
        error = distance(box.to_box(mesh.vertices)).abs()
        colors = error_colors(error, largest=1e-2 if context.quick else 2e-3)
        mesh = dataclasses.replace(mesh, vertex_colors=colors)
        shown.append((row.label, render_mesh(mesh, camera, size=(300, 300), occlusion_rays=4)))
    if shown:
        context.save("fig9.png", pictures.panels(shown, 3))
