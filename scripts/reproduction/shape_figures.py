"""Figures 8 and 10 and the supplement's figures on shapes, from fits of signed distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproduction.compare import Results, run_rows
from reproduction.context import Context
from reproduction.costs import kind_of_seconds, shape_step_seconds
from reproduction.rows import Row, load_row, merge
from reproduction.runs import read_record
from reproduction.shapes import error_picture, shape_job, shape_results
from reproduction.tables import where_and_when
from sasnet_ns.fitting import pictures

_WINDOW = 5
"""Moving average of the curves, in entries; an entry is a mean over up to 100 reports of the loss (paper: 35)."""


def losses(context: Context) -> None:
    """Figure 8: training loss on the Armadillo, and when SASNet reaches FINER's final loss."""
    note = "in the paper SASNet, which has FINER's after 35,000 of 200,000 steps"
    rows, results = shape_results(context, ("armadillo",))
    unit = dict.fromkeys((row.name for row in rows), 1.0)
    _curves(context, rows, results, "fig8", "Figure 8: training loss on the Armadillo", "step", unit, note)


def time_to_loss(context: Context) -> None:
    """Supp. Fig. 2: the same over time (its caption says image, its text and numbers the Armadillo).

    Steps times the time of one, measured in turns now: the runs' own clocks saw other work on the machine.
    """
    note = "in the paper SASNet has SIREN's after about 10 of SIREN's 58 minutes"
    rows, results = shape_results(context, ("armadillo",))
    fits = {row.name: shape_job(context, row, "armadillo", context.seeds[0]).fit for row in rows}
    title, what = "Supp. Figure 2: training loss on the Armadillo over time", kind_of_seconds(context.device)
    _curves(context, rows, results, "supp_fig2", title, what, shape_step_seconds(context, fits), note)


def _curves(
    context: Context,
    rows: list[Row],
    results: Results,
    item: str,
    title: str,
    what: str,
    unit: dict[str, float],
    note: str,
) -> None:
    """Draw the losses over steps times each row's unit, and say where SASNet reaches the others' last."""
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            print(f"{row.label}: {result['error']}")
            continue
        curve = _curve(result)
        window = min(_WINDOW, len(curve["loss"]))
        loss = np.convolve(curve["loss"], np.ones(window) / window, "valid")
        curves[row.name] = unit[row.name] * np.asarray(curve["step"])[window - 1 :], loss
        axis.plot(*curves[row.name], label=row.label, linewidth=2 if row.name == "sasnet" else 1)
    axis.set(xlabel=what, ylabel="loss, moving average", yscale="log", title=title)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    lines = [
        f"### {title}{context.mark}",
        "",
        f"| method | final loss | its last {what} | {what} at which SASNet has it |",
        "| --- | ---: | ---: | ---: |",
    ]
    own = curves.get("sasnet")
    for row in rows:
        if row.name in curves:
            at, loss = curves[row.name]
            there = own is not None and bool((own[1] <= loss[-1]).any())
            reached = f"{own[0][int((own[1] <= loss[-1]).argmax())]:,.4g}" if there and own is not None else ""
            lines.append(f"| {row.label} | {loss[-1]:.3e} | {at[-1]:,.4g} | {reached} |")
    if own is not None and len(curves) > 1:
        first = min(curves, key=lambda name: curves[name][1][-1])
        lines += ["", f"- Lowest final loss: {next(r.label for r in rows if r.name == first)}; {note}."]
    made = [group[0][0]["made"] for group in results.values() if "made" in group[0][0]]
    lines.append(f"- {where_and_when(context, made)}; seed {context.seeds[0]}.")
    context.save(f"{item}.png", pictures.figure_png(figure))
    context.save(f"{item}.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _curve(result: dict[str, Any]) -> dict[str, list[float]]:
    """The training curve of a result, of its run or of a kept row."""
    return result["curve"] if "curve" in result else read_record(result["folder"] / "row.json")["curve"]


def error_maps(context: Context) -> None:
    """Supp. Fig. 4: the Armadillo by the frozen embedding without masks and by SASNet, equal in size, with errors."""
    shape = "armadillo"
    whole = load_row("shapes", "sasnet")
    changes = {"network_config": {"masks": False, "groups": [0, 0]}}
    variants = {name: merge(variant, changes) for name, variant in whole.variants.items()}
    bare = Row("no_masks", "embedding, no masks", {}, merge(whole.base, changes), variants)
    rows = [bare, whole]
    results = run_rows(context, rows, lambda row, seed: [shape_job(context, row, shape, seed)], fields=True)
    lines = [
        f"### Supp. Figure 4: errors on the Armadillo{context.mark}",
        "",
        "| method | parameters | mean distance | 99th percentile | largest |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    shown = []
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result or not (result["folder"] / "mesh.ply").is_file():
            lines.append(f"| {row.label} | {result.get('error', result.get('surface'))} | | | |")
            continue
        picture, error = error_picture(
            result["folder"] / "mesh.ply", context.shape(shape), 1e-2 if context.quick else 1e-3
        )
        shown.append((f"{row.label}, mean {error.mean():.1e}", picture))
        tail = float(error.kthvalue(max(1, int(0.99 * len(error)))).values)
        cells = [f"{x:.2e}" for x in (float(error.mean()), tail, float(error.max()))]
        lines.append(f"| {row.label} | {result['parameters']:,} | {' | '.join(cells)} |")
    lines += ["", "- Distances of the mesh's vertices from the shape, box units; the networks are equal in size."]
    lines.append(f"- {context.hardware()}; seed {context.seeds[0]}.")
    if shown:
        context.save("supp_fig4.png", pictures.panels(shown, 2, width=4.0))
    context.save("supp_fig4.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _highest_band(context: Context, shape: str) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The trained field of SASNet, and the mask of its highest band at box coordinates."""
    from sasnet_ns.networks import SASNet, SignedDistanceField

    context.rows = ("sasnet",)
    rows, results = shape_results(context, (shape,), fields=True)
    result = results[rows[0].name][0][0]
    if "error" in result:
        raise ValueError(result["error"])
    field = SignedDistanceField.load(result["folder"] / "field.pt")
    network = field.network
    assert isinstance(network, SASNet)

    @torch.no_grad()
    def band(points: Tensor) -> Tensor:
        values = network.masks(2 * points)[0]
        assert values is not None
        return values[..., -1]

    return field, band


def mask_slices(context: Context) -> None:
    """Figure 10: the highest band's mask of SASNet in slices, with the surface's outline."""
    from sdf_tools.pictures.plots import sample_slice

    field, band = _highest_band(context, context.choose("armadillo", "dragon", "dragon"))
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
    bent, flat = _by_curvature(field, band, context.choose(128, 256, 256))
    print(f"mean of the highest band's mask: {values[near].mean():.3f} within 0.02 of the surface, "
          f"{values[~near].mean():.3f} elsewhere; {bent:.3f} on the tenth of the surface that bends most, "
          f"{flat:.3f} on the flatter half")  # fmt: skip


def _by_curvature(field: Any, band: Callable[[Tensor], Tensor], resolution: int) -> tuple[float, float]:
    """Mean of a mask on the tenth of a field's surface with the largest mean curvature, and on the flatter half."""
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.sampling import curvature_weights, sample_surface

    mesh = extract_mesh(field, resolution)
    samples = sample_surface(mesh, 50_000)
    order = curvature_weights(mesh)[samples.faces].argsort()
    values = band(samples.points.float())[order]
    return float(values[-len(order) // 10 :].mean()), float(values[: len(order) // 2].mean())


def mask_volume(context: Context) -> None:
    """Supp. Fig. 5: the highest band's mask of SASNet as a volume, from four sides, above the surface itself."""
    from sasnet_ns.fitting.volume import render_volume
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.pictures.render import Camera, render_mesh

    field, band = _highest_band(context, context.choose("armadillo", "dragon", "dragon"))
    side = context.choose(64, 128, 128)
    axis = (torch.arange(side) + 0.5) / side - 0.5
    # Up first, as volumes are rendered, and z away from the viewer, as cameras look.
    y, z, x = torch.meshgrid(axis, -axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    mask = torch.cat([band(part) for part in points.split(1 << 16)]).reshape(side, side, side)
    low, high = mask.quantile(0.5), mask.max()  # most of the box is empty: its median is the background
    mask = ((mask - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    mesh = extract_mesh(field, context.choose(128, 256, 256))
    sides = (0.0, 90.0, 180.0, 270.0)
    shown: list[tuple[str, Tensor]] = []
    for angle in sides:
        volume = render_volume(mask, azimuth=angle, cmap="coolwarm", shading=0.0, opacity=8.0, threshold=0.05)
        shown.append((f"mask above its median, {angle:g} degrees", volume))
    for angle in sides:
        picture = render_mesh(mesh, Camera(azimuth=-angle, elevation=0.0), size=(320, 320))
        shown.append((f"surface, {angle:g} degrees", picture))
    context.save("supp_fig5.png", pictures.panels(shown, len(sides), width=2.4))
