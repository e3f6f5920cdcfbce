"""What each option of the network and of training does, as pictures for docs/choosing.md.

    python scripts/parameter_pictures.py [NAME ...]

Fits the bundled Armadillo a few times for each option and draws the meshes in a row, as clay and by their distance from
the shape. About a quarter of an hour for all on two quiet cores; the files are docs/images/choosing_NAME.png.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.shapes.named import resolve_shape
from sasnet_ns.training import Recipe
from sdf_tools import Camera, Mesh, ShapeError, SignedDistance, error_colors, normalize, render_mesh
from sdf_tools.io.writing import write_atomically
from sdf_tools.pictures.plots import picture_sheet

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
STEPS, POINTS, CELLS = 400, 2_500, 160
_VIEW = Camera(azimuth=205, elevation=8, zoom=1.35)
_SIZE = 300
_LARGEST = 0.004  # box units, the last colour


@dataclass(frozen=True)
class Row:
    """An option and the values that are drawn.

    Attributes:
        title: of the picture.
        values: what is written above each mesh, and the options of the network that it stands for.
        fits: the same for options of the fit.
    """

    title: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    fits: dict[str, dict[str, int]] = field(default_factory=dict)


ROWS = {
    "omega_0": Row("omega_0", {str(v): {"omega_0": float(v)} for v in (3, 10, 30, 120)}),
    "band_limit": Row("band_limit", {str(v): {"band_limit": v} for v in (12, 20, 30, 90)}),
    "bands": Row("bands", {str(v): {"bands": v} for v in (1, 2, 4, 8)}),
    "groups": Row(
        "groups of each hidden layer",
        {
            "no masks": {"masks": False},
            "1 + 1": {"groups": (1, 1)},
            "8 + 8": {"groups": (8, 8)},
            "48 + 48": {"groups": (48, 48)},
        },
    ),
    "grid": Row("grid_max, the finest level", {str(v): {"grid_max": v} for v in (12, 40, 160, 640)}),
    "batch": Row("points in a batch", fits={f"{v:,}": {"points_per_batch": v} for v in (250, 1_000, 2_500, 10_000)}),
    "steps": Row("steps", fits={f"{v:,}": {"steps": v} for v in (100, 400, 1_600, 4_000)}),
}


def fit(network: dict[str, Any], points_per_batch: int = POINTS, steps: int = STEPS) -> Mesh | None:
    """The Armadillo as a network of these options learns it; None if it has no surface."""
    options = ShapeFit(
        network_config={"preset": "sdf_compact", **network},
        recipe=Recipe(steps=steps),
        points_per_batch=points_per_batch,
    )
    try:
        return fit_shape("armadillo", options, device="cpu", progress=False).extract_mesh(CELLS)
    except ShapeError:
        return None


def draw(name: str) -> None:
    """Fit, draw and write the picture of one row."""
    from PIL import Image

    row = ROWS[name]
    shape = resolve_shape("armadillo")
    truth, box = SignedDistance(shape, sign="unsigned"), normalize(shape).scale
    titles: list[str] = []
    clay: list[Tensor | None] = []
    colored: list[Tensor | None] = []
    for label in (*row.values, *row.fits):
        mesh = fit(row.values.get(label, {}), **row.fits.get(label, {}))
        if mesh is None:
            titles, clay, colored = [*titles, f"{label}: no surface"], [*clay, None], [*colored, None]
            continue
        errors = truth(mesh.vertices) * box
        mean = float(errors.mean())
        print(f"{row.title} {label}: mean distance of its vertices {1e4 * mean:.2f}e-4 box units", flush=True)
        titles.append(f"{label}\nmean distance {1e4 * mean:.1f}e-4")
        clay.append(render_mesh(mesh, _VIEW, (_SIZE, _SIZE)))
        painted = replace(mesh, vertex_colors=error_colors(errors, _LARGEST))
        colored.append(render_mesh(painted, _VIEW, (_SIZE, _SIZE)))
    bar = (0.0, _LARGEST, "viridis", "distance, box units")
    pixels = (picture_sheet([clay, colored], [titles], heading=row.title, bar=bar) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(192, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    write_atomically(IMAGES / f"choosing_{name}.png", buffer.getvalue())
    print(f"docs/images/choosing_{name}.png: {len(buffer.getvalue()) // 1000} kB", flush=True)


def main(names: list[str]) -> None:
    """Draw the rows that are named, or all."""
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        sys.exit(f"parameter_pictures: there is no '{unknown[0]}'; the rows are {', '.join(ROWS)}.")
    for name in names or ROWS:
        draw(name)


if __name__ == "__main__":
    main(sys.argv[1:])
