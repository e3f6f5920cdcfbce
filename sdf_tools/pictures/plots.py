"""Plots of fields, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.errors import ShapeError, needs
from sdf_tools.extraction import Field, SampledField

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]


def sample_slice(
    field: Field, axis: Literal["x", "y", "z"] = "z", offset: float = 0.0, resolution: int = 400,
    bounds: Bounds = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)),
) -> tuple[np.ndarray, tuple[float, float, float, float]]:  # fmt: skip
    """Values of a field on a plane across an axis.

    Args:
        field: callable (N, 3) -> (N,), torch or numpy; where float32 cannot hold the coordinates, so far from the
            origin, a torch function gets float64.
        axis: the axis that the plane is perpendicular to.
        offset: coordinate of the plane on it.
        resolution: samples along the longer side.
        bounds: the box that the plane is cut to.

    Returns:
        (H, W) values, rows along the later of the other two axes, and their extent (left, right, bottom, top).
    """
    if axis not in ("x", "y", "z"):
        raise ValueError(f"axis must be x, y or z, not '{axis}'.")
    low, high = np.asarray(bounds, dtype=np.float64)
    across, along = (a for a in range(3) if a != "xyz".index(axis))
    sides = high - low
    step = max(sides[across], sides[along]) / resolution
    counts = [max(2, round(sides[a] / step)) for a in (across, along)]
    u, v = (low[a] + (np.arange(n) + 0.5) * sides[a] / n for a, n in zip((across, along), counts, strict=True))
    points = np.full((len(v), len(u), 3), float(offset))
    points[..., across], points[..., along] = u[None, :], v[:, None]
    values = SampledField(field)(points.reshape(-1, 3)).reshape(len(v), len(u))
    return values, (low[across], high[across], low[along], high[along])


def slice_plot(
    field: Field,
    path: str | Path | None = None,
    *,
    axis: Literal["x", "y", "z"] = "z",
    offset: float = 0.0,
    resolution: int = 400,
    bounds: Bounds = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)),
    spacing: float = 0.05,
    title: str | None = None,
    size: int = 900,
) -> Figure:
    """A slice through a signed distance field: colours by sign and size, lines at equal distances, the surface bold.

    Even spacing of the lines shows where the field is a distance; where they bunch or spread, it is not.

    Args:
        field: callable (N, 3) -> (N,), torch or numpy, negative inside.
        path: picture to write (.png .pdf .svg), or None.
        axis: the axis that the slice is perpendicular to.
        offset: where on it.
        resolution: samples along the longer side.
        bounds: the box.
        spacing: between level lines, in the field's units.
        title: above the plot; None says where the slice lies.
        size: height of the picture in pixels.

    Returns:
        The matplotlib figure.

    Raises:
        ShapeError: the field is NaN somewhere.
        ValueError: a spacing that is not positive.
    """
    if spacing <= 0:
        raise ValueError(f"The spacing of level lines must be positive; got {spacing}.")
    with needs("matplotlib", "A plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    values, extent = sample_slice(field, axis, offset, resolution, bounds)
    reach = float(np.abs(values).max())
    if reach == 0:
        raise ShapeError("The field is zero all over the slice; there is nothing to draw.")
    figure = Figure(figsize=(7, 6), dpi=size / 6, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, origin="lower", extent=extent, cmap="RdBu", vmin=-reach, vmax=reach, alpha=0.85)
    # More than 60 lines would be a grey area.
    step = spacing * max(1, np.ceil(2 * reach / spacing / 60))
    count = int(reach / step)
    levels = [i * step for i in range(-count, count + 1) if i]
    height, width = values.shape
    u = extent[0] + (np.arange(width) + 0.5) * (extent[1] - extent[0]) / width
    v = extent[2] + (np.arange(height) + 0.5) * (extent[3] - extent[2]) / height
    if levels:
        axes.contour(u, v, values, levels=levels, colors="black", linewidths=0.4, linestyles="solid", alpha=0.6)
    if values.min() < 0 < values.max():
        axes.contour(u, v, values, levels=[0.0], colors="black", linewidths=2.0)
    names = [name for name in "xyz" if name != axis]
    axes.set(xlabel=names[0], ylabel=names[1], aspect="equal", title=title or f"{axis} = {offset:g}")
    figure.colorbar(image, ax=axes, label=f"signed distance (lines every {step:g})", shrink=0.9)
    if path is not None:
        _save(figure, Path(path))
    return figure


def add_color_bar(
    picture: Float[Tensor, "H W 3"],
    low: float,
    high: float,
    colormap: str = "viridis",
    label: str = "",
    background: tuple[float, float, float] | None = None,
) -> Float[Tensor, "H W2 3"]:
    """A rendered picture with a colour bar on its right.

    Args:
        picture: (H, W, 3) in [0, 1].
        low: value of the first colour.
        high: value of the last colour.
        colormap: name of a matplotlib colour map.
        label: along the bar: what the values are, with units.
        background: RGB in [0, 1] behind the bar; None takes that of the picture's first corner.

    Returns:
        (H, W2, 3) float32, wider by the bar.
    """
    with needs("matplotlib", "A colour bar"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
    height = picture.shape[0]
    dpi = max(30.0, height / 6)
    background = background or tuple(picture[0, 0].double().tolist())  # type: ignore[assignment]
    figure = Figure(figsize=(1.15, height / dpi), dpi=dpi, facecolor=background)
    canvas = FigureCanvasAgg(figure)
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), colormap), cax=figure.add_axes((0.08, 0.06, 0.2, 0.86)), label=label
    )
    bar.ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    canvas.draw()
    drawn = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255)
    strip = torch.full((height, drawn.shape[1], 3), 1.0)
    strip[:] = torch.tensor(background)
    rows = min(height, drawn.shape[0])
    strip[:rows] = drawn[:rows]
    return torch.cat([picture.float(), strip], dim=1)


def picture_sheet(
    pictures: Sequence[Sequence[Float[Tensor, "H W 3"] | None]],
    titles: Sequence[Sequence[str]] = (),
    *,
    heading: str = "",
    bar: tuple[float, float, str, str] | None = None,
) -> Float[Tensor, "H2 W2 3"]:
    """Pictures in rows and columns, with a line or two of text above them.

    Args:
        pictures: rows of pictures of one size; None leaves a place empty.
        titles: rows of what stands above each picture; rows that are left out have nothing.
        heading: above all.
        bar: lowest value, highest value, matplotlib colour map and label of a colour bar beside the last row.

    Returns:
        (H2, W2, 3) float32 in [0, 1].

    Raises:
        ValueError: there is no picture, or they have several sizes.
    """
    with needs("matplotlib", "A sheet of pictures"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
    sizes = {tuple(picture.shape[:2]) for row in pictures for picture in row if picture is not None}
    if len(sizes) != 1:
        raise ValueError(f"A sheet needs pictures of one size; got {sorted(sizes) or 'none'}.")
    height, width = sizes.pop()
    dpi = 100
    rows, count = len(pictures), max(len(row) for row in pictures)
    lines = [max((text.count("\n") + 1 for text in row), default=0) for row in titles]
    above = sum(0.18 * count + 0.12 for count in lines if count) + (0.35 if heading else 0.0)
    figure = Figure(
        figsize=(count * width / dpi + (1.1 if bar else 0.0), rows * height / dpi + above),
        dpi=dpi,
        layout="constrained",
        facecolor="white",
    )
    canvas = FigureCanvasAgg(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, count, squeeze=False)
    for row, line in zip(pictures, axes, strict=True):
        for ax in line:
            ax.axis("off")
        for ax, picture in zip(line, row, strict=False):
            if picture is not None:
                ax.imshow(picture.numpy(), interpolation="none")
    for line, texts in zip(axes, titles, strict=False):
        for ax, text in zip(line, texts, strict=False):
            ax.set_title(text, fontsize=10, parse_math=False)
    if heading:
        figure.suptitle(heading, fontsize=12, parse_math=False)
    if bar is not None:
        low, high, colormap, label = bar
        drawn = figure.colorbar(
            ScalarMappable(Normalize(low, high), colormap), ax=axes[-1, :].tolist(), label=label, shrink=0.9, aspect=28
        )
        drawn.ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _save(figure: Figure, path: Path) -> None:
    from sdf_tools.io.writing import write_atomically

    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise ValueError(f"A plot must end in .png, .pdf or .svg, not '{path.name}'.")
    write_atomically(path, figure.savefig)
