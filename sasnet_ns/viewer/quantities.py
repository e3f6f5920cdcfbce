"""What surfaces and slices are coloured by: values at points, their range, and a colour bar."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.viewer.shown_field import ShownField

Quantity = Literal["shaded", "normals", "error", "gradient", "curvature", "mask", "group", "band"]
Reference = Callable[[Tensor], Tensor]
"""(N, 3) points in the shape's own units to (N,) distances from the input."""

HINTS: dict[str, str] = {
    "shaded": "The surface as clay.",
    "normals": "Direction of the surface as red, green and blue.",
    "error": "Distance from the input, in its own units.",
    "gradient": "Length of the field's gradient: 1 where the field is a distance (Eikonal equation).",
    "curvature": "Mean curvature: red where the surface bulges out, blue where it is hollow.",
    "mask": "How far one mask lets its group of neurons through, 0 to 1.",
    "group": "What the neurons behind that mask add to the next layer.",
    "band": "How much one frequency band moves the field here.",
}
_CURVATURE_STEP = 0.004  # share of the box's longest side: finer than what can be seen, coarser than noise


@dataclass(frozen=True)
class ViewSettings:
    """What the viewer's panel controls; lengths in scene units (box units for a shape).

    Attributes:
        draw: ``mesh``, drawn by the browser, or ``rays``, sphere-traced here.
        color: what the surface is coloured by.
        level: the signed distance shown as the surface.
        bands: how many of a SASNet's high-frequency bands to use; None for all.
        band: which band ``color="band"`` shows, from 1.
        mask_layer: which layer ``mask`` shows, 0 for the embedding.
        mask_group: and which of its groups, from 0.
        slice: whether the plane is shown.
        slice_color: what the plane is coloured by: ``distance`` with level lines, or a quantity.
        cut: whether the surface in front of the plane is cut away.
        plane_point: a point on the plane.
        plane_normal: its unit normal.
    """

    draw: Literal["mesh", "rays"] = "mesh"
    color: Quantity = "shaded"
    level: float = 0.0
    bands: int | None = None
    band: int = 1
    mask_layer: int = 0
    mask_group: int = 0
    slice: bool = False
    slice_color: str = "distance"
    cut: bool = False
    plane_point: tuple[float, float, float] = (0.0, 0.0, 0.0)
    plane_normal: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Scale:
    """A colour bar.

    Attributes:
        title: what is shown, with its unit.
        low: value of the first colour.
        high: value of the last colour.
        least: smallest value that was seen.
        most: largest value that was seen.
        colormap: name of a matplotlib colour map.
    """

    title: str
    low: float
    high: float
    least: float
    most: float
    colormap: str


def offered(field: ShownField | None, has_reference: bool) -> list[Quantity]:
    """The quantities that this field and input have."""
    names: list[Quantity] = ["shaded", "normals"]
    if field is None:
        return names
    names += ["error"] if has_reference else []
    names += ["gradient", "curvature"]
    names += ["mask", "group"] if field.mask_layers else []
    names += ["band"] if field.band_count else []
    return names


@torch.no_grad()
def evaluate(
    field: ShownField,
    quantity: str,
    points: Float[Tensor, "N 3"],
    settings: ViewSettings,
    reference: Reference | None = None,
) -> tuple[Float[Tensor, " N"], str, str]:
    """One value a point.

    Args:
        field: what is shown.
        quantity: error, gradient, curvature, mask, group or band.
        points: (N, 3) scene points.
        settings: bands, mask layer and group.
        reference: distance from the input, for ``error``.

    Returns:
        (N,) values, a title with their unit, and the kind of colours: ``sequential``, or ``diverging`` around 0 or 1.
    """
    scale = field.frame.scale
    if quantity == "error":
        if reference is None:
            return points.new_full((len(points),), math.nan), "error: the input cannot be read", "sequential"
        return reference(field.frame.to_world(points)).abs().to(points), "distance from the input", "sequential"
    if quantity == "gradient":
        _, gradient = field.value_and_gradient(points, settings.bands)
        return gradient.norm(dim=-1), "length of the gradient", "diverging around 1"
    if quantity == "curvature":
        return scale * _mean_curvature(field, points, settings.bands), "mean curvature, 1 / unit", "diverging"
    if quantity == "mask":
        values = field.mask(points, settings.mask_layer, settings.mask_group)
        return values, f"mask {settings.mask_group + 1} of {_layer_name(field, settings)}", "sequential"
    if quantity == "group":
        values = field.group_contribution(points, settings.mask_layer, settings.mask_group)
        title = f"contribution of group {settings.mask_group + 1} of {_layer_name(field, settings)}"
        return values, title, "diverging"
    if quantity == "band":
        band = max(1, settings.band)
        change = field.values(points, band) - field.values(points, band - 1)
        return change / scale, f"what band {band} adds to the distance", "diverging"
    raise ValueError(f"there is no quantity '{quantity}'.")


def _layer_name(field: ShownField, settings: ViewSettings) -> str:
    name, _ = field.mask_layers.get(settings.mask_layer, ("", 0))
    return name if settings.mask_layer else f"the {name}"


def _mean_curvature(field: ShownField, points: Tensor, bands: int | None) -> Tensor:
    """Half the divergence of the unit normal, by central differences of the field's gradient direction.

    For a distance it is half the Laplacian (Goldman 2005, "Curvature formulas for implicit curves and surfaces").
    """
    step = _CURVATURE_STEP * float((field.bounds[1] - field.bounds[0]).max())
    total = torch.zeros_like(points[:, 0])
    for axis in range(3):
        shift = points.new_zeros(3)
        shift[axis] = step
        for sign in (1.0, -1.0):
            _, gradient = field.value_and_gradient(points + sign * shift, bands)
            total += sign * torch.nn.functional.normalize(gradient, dim=-1)[:, axis]
    return total / (4 * step)


def color_values(
    values: Float[Tensor, " N"], title: str, kind: str, high: float | None = None, scale: Scale | None = None
) -> tuple[Float[Tensor, "N 3"], Scale]:
    """Colours of values, and the bar that explains them.

    Args:
        values: (N,) numbers; NaN becomes grey.
        title: of the bar.
        kind: ``sequential``, ``diverging`` or ``diverging around 1``.
        high: value of the last colour; default the 99th percentile, so that a few outliers do not flatten the rest.
        scale: a colour bar whose colours and ends are taken; default one of these values.

    Returns:
        (N, 3) colours in [0, 1] and the scale.
    """
    import matplotlib

    known = values[values.isfinite()].double().cpu().numpy()
    least, most = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if scale is not None:
        low, top, colormap = scale.low, scale.high, scale.colormap
    elif kind == "sequential":
        low = 0.0 if title.startswith("distance") else (float(np.percentile(known, 1)) if len(known) else 0.0)
        top = high if high is not None else (float(np.percentile(known, 99)) if len(known) else 1.0)
        colormap = "inferno" if title.startswith("mask") else "viridis"
    else:
        middle = 1.0 if kind.endswith("1") else 0.0
        reach = float(np.percentile(np.abs(known - middle), 98)) if len(known) else 1.0
        reach = max(reach, 1e-300)
        low, top, colormap = middle - reach, middle + reach, "coolwarm"
    top = top if top > low else low + max(1e-12 * abs(low), 1e-300)
    share = ((values.double() - low) / (top - low)).clamp(0, 1).cpu().numpy()
    colors = torch.from_numpy(matplotlib.colormaps[colormap](np.nan_to_num(share))[:, :3].astype(np.float32))
    colors[~values.isfinite().cpu()] = 0.6
    return colors.to(values.device), Scale(title, low, top, least, most, colormap)


def color_bar(scale: Scale, width: int = 420) -> str:
    """The bar as markdown for the panel: a picture without any file, and the numbers under it."""
    import matplotlib
    from PIL import Image

    row = matplotlib.colormaps[scale.colormap](np.linspace(0, 1, width))[:, :3]
    picture = np.broadcast_to((row * 255).round().astype(np.uint8), (28, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    ends = f"{scale.low:.3g} … {(scale.low + scale.high) / 2:.3g} … {scale.high:.3g}"
    return (
        f"**{scale.title}**\n\n![colour bar](data:image/png;base64,{data})\n\n{ends}\n\n"
        f"smallest {scale.least:.3g}, largest {scale.most:.3g}"
    )
