"""Pictures of trained fields without a browser: coloured surfaces, masks, levels of detail, comparisons, curves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.viewer.curves import Row
from sasnet_ns.viewer.quantities import Quantity, Reference, Scale, ViewSettings, color_values, evaluate
from sasnet_ns.viewer.shown_field import ShownField
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.pictures.plots import picture_sheet
from sdf_tools.pictures.render import Camera, error_colors, error_range, render_mesh

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_COLUMNS = 8


def camera_towards(
    front: tuple[float, float, float] | None, up: str, turn: float = 25.0, elevation: float = 12.0
) -> Camera:
    """A camera that looks at the front of a shape, from a little to the side.

    Args:
        front: unit vector in which the shape looks; None for the usual one (+z, or -y where z is up).
        up: the upward axis.
        turn: degrees around it, away from straight ahead.
        elevation: degrees above the horizon.
    """
    camera = Camera(turn, elevation, up=up)  # type: ignore[arg-type]
    if front is None:
        return camera
    ahead = torch.eye(3)[{"x": 2, "y": 2, "z": 1}[up]] * (-1 if up == "z" else 1)
    side = torch.linalg.cross(torch.eye(3)["xyz".index(up)], ahead)
    towards = torch.tensor(front, dtype=torch.float32)
    azimuth = math.degrees(math.atan2(float(towards @ side), float(towards @ ahead)))
    return dataclasses.replace(camera, azimuth=azimuth + turn)


def to_scene(field: ShownField, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Points in the shape's own units to the field's, float32 on its device."""
    frame = field.frame
    return ((points.double() - frame.center.cpu()) * frame.scale).float().to(field.device)


def color_surface(
    mesh: Mesh,
    quantity: Quantity,
    field: ShownField | None = None,
    reference: Reference | None = None,
    high: float | None = None,
) -> tuple[Mesh, Scale | None]:
    """A mesh with a quantity as its colours.

    Args:
        mesh: in the shape's own units.
        quantity: what it is coloured by; ``shaded`` leaves it as it is.
        field: what the quantity is read from; ``normals`` and ``error`` do without.
        reference: distance from the input, for ``error``.
        high: value of the last colour; default the 99th percentile.

    Returns:
        The mesh and its colour bar, where it has one.

    Raises:
        ShapeError: the quantity needs what is not there.
    """
    if quantity == "shaded":
        return mesh, None
    if quantity == "normals":
        from sdf_tools.topology import vertex_normals

        normals = torch.from_numpy(vertex_normals(mesh.vertices.double().numpy(), mesh.faces.numpy()))
        return dataclasses.replace(mesh, vertex_colors=((normals + 1) / 2).float()), None
    if quantity == "error":
        if reference is None:
            raise ShapeError("errors need the input; name it with --shape.")
        values, title, kind = reference(mesh.vertices.double()).abs(), "distance from the input", "sequential"
    elif field is None:
        raise ShapeError(f"'{quantity}' is shown for fields of shapes, not for runs on photographs.")
    else:
        values, title, kind = evaluate(field, quantity, to_scene(field, mesh.vertices), ViewSettings())
    painted, scale = color_values(values, title, kind, high)
    return dataclasses.replace(mesh, vertex_colors=painted.cpu().float()), scale


def mask_sheet(field: ShownField, mesh: Mesh, camera: Camera, size: int) -> Float[Tensor, "H W 3"]:
    """Every mask of a SASNet on its surface, in rows by layer, each on a colour scale of its own.

    Args:
        field: of a network with masks.
        mesh: its surface, in the shape's own units.
        camera: where from.
        size: pixels of one picture's side.

    Raises:
        ShapeError: the network has no masks.
    """
    if not field.mask_layers:
        raise ShapeError("the run's network has no masks to show.")
    points = to_scene(field, mesh.vertices)
    rows: list[list[Tensor | None]] = []
    titles: list[list[str]] = []
    for layer, (_, groups) in field.mask_layers.items():
        tiles: list[Tensor | None] = []
        texts = []
        for group in range(groups):
            # Open here and closed there is what a mask says; how open it is on the whole stands above it.
            colors, scale = color_values(field.mask(points, layer, group), f"mask {group + 1}", "sequential")
            painted = dataclasses.replace(mesh, vertex_colors=colors.cpu().float())
            tiles.append(render_mesh(painted, camera, (size, size), occlusion_rays=4))
            place = f"layer {layer}, group {group + 1}" if layer else f"band {group + 1}"
            texts.append(f"{place}\n{scale.low:.2g} to {scale.high:.2g}")
        for start in range(0, groups, _MOST_COLUMNS):
            rows.append(tiles[start : start + _MOST_COLUMNS])
            titles.append(texts[start : start + _MOST_COLUMNS])
    return picture_sheet(rows, titles)


def level_sheet(
    field: ShownField, camera: Camera, size: int, resolution: int, reference: Reference | None
) -> Float[Tensor, "H W 3"]:
    """The surface with each number of frequency bands, from none to all.

    Args:
        field: of a network whose bands are levels of detail (band dropout).
        camera: where from.
        size: pixels of one picture's side.
        resolution: cells along the box.
        reference: distance from the input, written above each; None leaves it out.

    Raises:
        ShapeError: its bands are no levels of detail.
    """
    from sasnet_ns.viewer.live_surface import extract

    if not field.band_count:
        raise ShapeError(
            "the run's bands are no levels of detail; train with band dropout "
            "(ns-train sasnet-sdf --pipeline.model.objective.band-dropout 0.1)."
        )
    names, meshes = [], []
    for bands in range(field.band_count + 1):
        surface = extract(field, resolution, ViewSettings(bands=bands), thorough=True)
        mesh = Mesh(field.frame.to_world(surface.vertices), surface.faces)
        meshes.append(mesh)
        name = "low group alone" if bands == 0 else f"{bands} band{'s' * (bands > 1)}"
        if reference is not None:
            name += f"\nmean distance {float(reference(mesh.vertices).abs().mean()):.3g}"
        names.append(name)
    frame = torch.cat([mesh.vertices.double() for mesh in meshes])
    return picture_sheet([[render_mesh(mesh, camera, (size, size), frame=frame) for mesh in meshes]], [names])


def comparison_sheet(
    meshes: Sequence[Mesh],
    names: Sequence[str],
    camera: Camera,
    size: int,
    reference: Reference | Sequence[Reference] | None = None,
    largest: float | None = None,
) -> Float[Tensor, "H W 3"]:
    """Surfaces of several runs side by side; below, where the input is known, by their errors on one colour scale.

    Args:
        meshes: in the units of the input.
        names: one for each.
        camera: where from.
        size: pixels of one picture's side.
        reference: distance from the input, or one for each mesh where the inputs differ: each then fills its picture,
            where surfaces of one input are drawn at one scale. None leaves the errors out.
        largest: value of the last colour; default the 99th percentile over all.
    """
    several = isinstance(reference, Sequence)
    frame = None if several else torch.cat([mesh.vertices.double() for mesh in meshes])
    shaded: list[Tensor | None] = [render_mesh(mesh, camera, (size, size), frame=frame) for mesh in meshes]
    if reference is None:
        return picture_sheet([shaded], [names])
    references = list(reference) if isinstance(reference, Sequence) else [reference] * len(meshes)
    errors = [measure(mesh.vertices.double()).abs() for measure, mesh in zip(references, meshes, strict=True)]
    _, top = error_range(torch.cat(errors), largest)
    below: list[Tensor | None] = []
    titles = []
    for mesh, name, error in zip(meshes, names, errors, strict=True):
        painted = dataclasses.replace(mesh, vertex_colors=error_colors(error, top))
        below.append(render_mesh(painted, camera, (size, size), frame=frame))
        titles.append(f"{name}\nmean {float(error.mean()):.3g}, largest {float(error.max()):.3g}")
    return picture_sheet([shaded, below], [titles], bar=(0.0, top, "viridis", "distance from the input"))


def curve_figure(histories: dict[str, list[Row]]) -> Figure:
    """Training curves of runs: loss, intersection over union and surface error over the steps, where they are known.

    Args:
        histories: a run's name to its rows, see :mod:`sasnet_ns.viewer.curves`.

    Raises:
        ShapeError: no run has two rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wanted = ("loss", "iou", "surface_error", "psnr")
    names = [n for n in wanted if any(sum(n in row for row in rows) > 1 for rows in histories.values())]
    if not names:
        raise ShapeError("none of the runs has kept its numbers; there is nothing to draw.")
    figure = Figure(figsize=(4.6 * len(names), 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for run, rows in histories.items():
            points = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
            if points:
                # matplotlib leaves names that begin with _ out of legends.
                shown = f" {run}" if run.startswith("_") else run
                ax.plot(*zip(*points, strict=True), label=shown, linewidth=1.4, marker="." if len(points) < 12 else "")
        if name == "iou":
            # 0.99 and 0.999 are as far apart as 0.9 and 0.99.
            ax.set_yscale("function", functions=(_nines, _from_nines))
            ax.set_yticks([0.5, 0.9, 0.97, 0.99, 0.997, 0.999])
        elif name != "psnr":
            ax.set_yscale("log")
        ax.set(xlabel="step", title=name.replace("_", " "))
        ax.grid(alpha=0.3)
        for text in ax.legend(fontsize=8).get_texts():
            text.set_parse_math(False)  # names are no formulas
    return figure


def _nines(iou):  # type: ignore[no-untyped-def]
    import numpy as np

    return -np.log10(np.clip(1 - np.asarray(iou), 1e-6, None))


def _from_nines(value):  # type: ignore[no-untyped-def]
    return 1 - 10.0**-value
